"""API keys at rest: one JSON file that holds, of each key, everything but the key.

A key is ``rck_<id>_<secret>`` with a secret of 256 random bits, of which the file has the SHA-256. A slow, salted hash
is for passwords, which people choose and others guess; nobody can try 2^256 secrets, and a hash that takes 100 ms would
let anyone who sends wrong keys keep the server busy (OWASP's Password Storage Cheat Sheet and NIST SP 800-63B ask for
slow hashes of memorized secrets only). What is read here is checked by :mod:`rayclf.serving.keyring`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rayclf import storage
from rayclf.errors import ConfigError, StorageError
from rayclf.storage_errors import failures, shown

HOME_VARIABLE = "RAYCLF_HOME"
ALL = "*"
_PREFIX, _ID_BYTES, _SECRET_BYTES = "rck", 6, 32
_LOCK_WAIT_S = 30


class Key(BaseModel):
    """What is known of a key; ``models`` are the names it is for, or ``*``, and ``rate`` is in requests a minute."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    models: tuple[str, ...]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    rate: int | None = Field(None, ge=1)
    digest: str = Field(repr=False)

    def state(self, now: datetime) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def allows(self, model: str) -> bool:
        """Whether the key is for ``model``."""
        return ALL in self.models or model in self.models

    def public(self) -> dict[str, Any]:
        """All but the digest, as JSON has it."""
        return self.model_dump(mode="json", exclude={"digest"})


_Keys = list[Key]  # in the class below, list is a method


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int = Field(1, ge=1, le=1)
    keys: list[Key] = []


def digest_of(token: str) -> str:
    """The SHA-256 of a whole key, in hex: of the bytes that were sent, which servers decode as Latin-1."""
    try:
        return hashlib.sha256(token.encode("latin-1")).hexdigest()
    except UnicodeEncodeError:
        return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def id_of(token: str) -> str:
    """The id inside a key; empty when it has not the form of one."""
    parts = token.split("_")
    return parts[1] if len(parts) == 3 and parts[0] == _PREFIX else ""


def default_store() -> str:
    """``keys.json`` in ``$RAYCLF_HOME``, which may be in an object store, or in ``~/.rayclf``."""
    return storage.join(os.environ.get(HOME_VARIABLE) or os.path.join(os.path.expanduser("~"), ".rayclf"), "keys.json")


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class KeyStore:
    """The keys in a file: local, readable by its owner alone, or in an object store, for replicas on other nodes.

    Local changes are made under a lock. An object store has none: let one person or program change keys there.
    ``now`` is the clock. All methods raise StorageError when the file cannot be read, written or understood.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, now: Callable[[], datetime] = _now) -> None:
        self.path = os.fspath(path) if path is not None else default_store()
        self._now = now

    def list(self) -> _Keys:
        """All keys ever made, in order; none when there is no file."""
        try:
            return _File.model_validate(storage.read_json(self.path)).keys
        except FileNotFoundError:
            return []
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            what = f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}"
        except ValueError:
            what = "not JSON"
        raise StorageError(f"{shown(self.path)}: not a store of keys ({what}); mend it or move it away")

    def create(
        self, name: str, models: Sequence[str] = (ALL,), expires: datetime | None = None, rate: int | None = None
    ) -> tuple[Key, str]:
        """A new key and what its user sends, which is nowhere kept: it can be shown now and never again.

        ``expires`` is the instant from which on it is refused. Raises ConfigError for an empty name or model, a time
        that has passed, or a rate below 1.
        """
        if not name.strip() or not name.isprintable():
            raise ConfigError(f"NAME {name!r}: must be a few readable characters")
        if not models or any(not model.strip() for model in models):
            raise ConfigError("--models: a name is empty; give names of models, or * for all")
        if expires is not None and expires <= self._now():
            raise ConfigError(f"--expires {expires.isoformat()}: has passed already; give a time to come")
        if rate is not None and rate < 1:
            raise ConfigError(f"--rate {rate}: must be at least 1 request a minute")
        with self._changes() as keys:
            key, token = self._new(name.strip(), tuple(dict.fromkeys(models)), expires, rate)
            keys.append(key)
        return key, token

    def rotate(self, which: str, grace: timedelta = timedelta(hours=24)) -> tuple[Key, str]:
        """A new key in place of an active one, by id or name, which is still taken for ``grace``, so that clients can
        change over. Raises ConfigError when there is no such key or it is no longer active.
        """
        if grace < timedelta(0):
            raise ConfigError("--grace: must not be negative")
        with self._changes() as keys:
            place = self._find(keys, which)
            old, now = keys[place], self._now()
            if old.state(now) != "active":
                raise ConfigError(f"{which}: is {old.state(now)}; make a new key with rayclf keys create")
            end = now + grace
            keys[place] = old.model_copy(update={"expires": min(end, old.expires or end)})
            key, token = self._new(old.name, old.models, old.expires, old.rate)
            keys.append(key)
        return key, token

    def revoke(self, which: str) -> Key:
        """Refuse a key, by id or name, from now on; one that is revoked stays so. Raises ConfigError for an unknown."""
        with self._changes() as keys:
            place = self._find(keys, which)
            if keys[place].revoked is None:
                keys[place] = keys[place].model_copy(update={"revoked": self._now()})
            return keys[place]

    def _new(self, name: str, models: tuple[str, ...], expires: datetime | None, rate: int | None) -> tuple[Key, str]:
        key_id = secrets.token_hex(_ID_BYTES)
        token = f"{_PREFIX}_{key_id}_{secrets.token_hex(_SECRET_BYTES)}"
        created = self._now()
        key = Key(
            id=key_id, name=name, models=models, created=created, expires=expires, rate=rate, digest=digest_of(token)
        )
        return key, token

    def _find(self, keys: Sequence[Key], which: str) -> int:
        """The place of a key by its id, or by a name that one active key has."""
        found = [place for place, key in enumerate(keys) if key.id == which]
        if not found:
            found = [place for place, key in enumerate(keys) if key.name == which]
            active = [place for place in found if keys[place].state(self._now()) == "active"]
            found = active or found
        if not found:
            raise ConfigError(f"{which}: no key has this id or name; rayclf keys list shows all")
        if len(found) > 1:
            ids = ", ".join(keys[place].id for place in found)
            raise ConfigError(f"{which}: {len(found)} keys have this name; give one of the ids {ids}")
        return found[0]

    @contextmanager
    def _changes(self) -> Iterator[_Keys]:
        """The keys, written back when the block ends well; nobody else changes a local file meanwhile."""
        with self._lock():
            keys = self.list()
            yield keys
            with storage.write_whole(self.path) as file:
                os.fchmod(file.fileno(), 0o600)  # before anything is in it
                file.write((json.dumps(_File(keys=keys).model_dump(mode="json"), indent=2) + "\n").encode())

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if "://" in self.path and not self.path.startswith("file://"):
            yield
            return
        from filelock import FileLock, Timeout

        path = Path(storage.resolve(self.path)[1])
        lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_WAIT_S, mode=0o600)
        with failures(self.path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                what = f"another program has been changing it for {_LOCK_WAIT_S} seconds"
                raise StorageError(f"{path}: {what}; try again later") from None
        try:
            yield
        finally:
            lock.release()
