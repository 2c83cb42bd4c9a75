"""Who may ask: the keys of a store, checked for each request and read again when they have changed."""

from __future__ import annotations

import asyncio
import hmac
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rayclf import storage
from rayclf.errors import StorageError
from rayclf.serving.api_errors import forbidden, unauthorized, unavailable
from rayclf.serving.keys import ALL, Key, KeyStore, digest_of, id_of

EVERY_S = 2.0  # how often it is asked whether the store has changed
# An object store tells times of change in whole seconds: two changes in one second may look like one for so long.
_REREAD_S = 30.0
_STALE_S = 300.0  # how long the keys that were read last are good when the store cannot be read

_log = logging.getLogger("rayclf.serving")


def _key(key_id: str, name: str, digest: str) -> Key:
    return Key(id=key_id, name=name, models=(ALL,), created=datetime.fromtimestamp(0, UTC), digest=digest)


class Keyring:
    """The keys that are taken: those of ``store``, and one whose SHA-256 is ``environment_digest`` (RAYCLF_API_KEY).

    Without ``required`` everybody is let in, as the key named ``anonymous``. ``clock`` is in seconds, ``now`` tells the
    time of day. Raises StorageError when the store is damaged; later it keeps what it read last, for five minutes.
    """

    def __init__(
        self,
        store: KeyStore | None = None,
        environment_digest: str = "",
        *,
        required: bool = True,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.required = required
        self._store, self._every_s, self._clock, self._now = store, every_s, clock, now
        self._environment = _key("environment", "RAYCLF_API_KEY", environment_digest)
        self._nobody = _key("", "", "0" * 64)  # no SHA-256 that anyone has a key for
        self._keys: dict[str, Key] = {}
        self._version: dict[str, Any] | None = None
        self._asked = self._read = clock()
        self._lock = threading.Lock()
        self._asking: asyncio.Future[None] | None = None
        if store is not None:
            self._reread()

    def identify(self, authorization: str | None, api_key: str | None = None) -> Key:
        """The key in ``Authorization: Bearer KEY``, else in ``X-API-Key``.

        Raises ApiError 401 for a missing, wrong, expired or revoked one, always with the same words and after the same
        work, so that neither tells which keys there are; 503 when the store has not been readable for long.
        """
        if not self.required:
            return _ANONYMOUS
        self.refresh()
        if self._store is not None and self._clock() - self._read > _STALE_S:
            raise unavailable("the store of API keys cannot be read", 10)
        token = _token(authorization) or (api_key or "").strip()
        given = digest_of(token)
        key = self._keys.get(id_of(token), self._nobody)
        by_store = hmac.compare_digest(given, key.digest)
        by_environment = hmac.compare_digest(given, self._environment.digest.rjust(64, "0"))
        active = key.state(self._now()) == "active"
        if by_environment:
            return self._environment
        if by_store and active:
            return key
        raise unauthorized()

    def check(self, authorization: str | None, api_key: str | None = None, model: str | None = None) -> Key:
        """:meth:`identify`, and ApiError 403 when the key is not for ``model``; None stands for no model at all."""
        key = self.identify(authorization, api_key)
        if model is not None and not key.allows(model):
            raise forbidden(f"model: this API key is not for '{model}'")
        return key

    def refresh(self) -> None:
        """Read the store again when it has changed; it is asked at most every ``every_s`` seconds."""
        if self._due():
            with self._lock:
                if self._due():
                    self._ask()

    async def refreshed(self) -> None:
        """:meth:`refresh` in a thread, one for all requests that wait: for stores that take a while to ask."""
        if not self._due():
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(self.refresh))
        await asyncio.shield(self._asking)

    def _due(self) -> bool:
        return self._store is not None and self._clock() - self._asked >= self._every_s

    def _ask(self) -> None:
        assert self._store is not None
        try:
            version = storage.size_and_version(self._store.path)
            if version == self._version and self._clock() - self._read < _REREAD_S:
                return
            self._reread()
        except StorageError as error:
            _log.error("API keys: %s", error)
        finally:
            self._asked = self._clock()

    def _reread(self) -> None:
        assert self._store is not None
        version = storage.size_and_version(self._store.path)  # before the file: a change in between is seen next time
        self._keys = {key.id: key for key in self._store.list()}
        self._version, self._read = version, self._clock()


def _token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


_ANONYMOUS = _key("anonymous", "anonymous", "")
