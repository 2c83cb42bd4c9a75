"""Who is let in, and that a change of the store is seen without a restart."""

from __future__ import annotations

import asyncio
import hmac
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3 import S3Server

from rayclf import storage
from rayclf.errors import StorageError
from rayclf.serving import keyring
from rayclf.serving.api_errors import ApiError
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import KeyStore, digest_of


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys.json")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(ring: Keyring, *given: str | None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        ring.check(*given)
    return caught.value


def test_a_key_is_taken_in_either_header(store: KeyStore) -> None:
    key, token = store.create("a")
    ring = Keyring(store)
    assert ring.check(f"Bearer {token}") == key
    assert ring.check(f"bearer   {token} ") == key
    assert ring.check(None, token) == key
    assert ring.check("Basic dXNlcjpwYXNz", token) == key


def test_all_that_is_no_key_gets_the_same_answer(store: KeyStore) -> None:
    key, token = store.create("a")
    revoked, revoked_token = store.create("revoked")
    store.revoke(revoked.id)
    _, expired_token = store.create("expired", expires=datetime.now(UTC) + timedelta(hours=1))
    ring = Keyring(store, now=lambda: datetime.now(UTC) + timedelta(hours=2))
    tries = (
        (None, None), ("", ""), ("Bearer", None), ("Bearer ", None), (token, None), (f"Basic {token}", None),
        (f"Bearer {token}x", None), (f"Bearer {token[:-1]}", None), (f"Bearer {token.upper()}", None),
        (f"Bearer rck_{key.id}_", None), (f"Bearer rck_{'0' * 12}_{'0' * 64}", None), (f"Bearer {key.digest}", None),
        (f"Bearer {revoked_token}", None), (f"Bearer {expired_token}", None), ("Bearer \udcff\u20ac", "\u20ac"),
    )  # fmt: skip
    answers = {refused(ring, *given).body("id") for given in tries}
    assert len(answers) == 1
    error = refused(ring, None)
    assert (error.status, error.headers) == (401, {"WWW-Authenticate": "Bearer"})


def test_the_same_work_for_all(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known id, an unknown one and none at all: each is compared with two digests, in constant time."""
    _, token = store.create("a")
    ring = Keyring(store, digest_of("of the environment"))
    compared: list[tuple[int, int]] = []

    real = hmac.compare_digest

    def compare(given: str, expected: str) -> bool:
        compared.append((len(given), len(expected)))
        return real(given, expected)

    monkeypatch.setattr(keyring.hmac, "compare_digest", compare)  # type: ignore[attr-defined]
    ring.check(f"Bearer {token}")
    ring.check("Bearer of the environment")
    for wrong in (f"Bearer {token}x", "Bearer rck_x_y", None):
        refused(ring, wrong)
    assert compared == [(64, 64)] * 10


def test_a_key_is_for_its_models(store: KeyStore) -> None:
    _, token = store.create("a", ["tickets"])
    ring = Keyring(store)
    assert ring.check(f"Bearer {token}", None, "tickets").name == "a"
    error = refused(ring, f"Bearer {token}", None, "mails")
    assert (error.status, error.message) == (403, "model: this API key is not for 'mails'")
    assert refused(ring, "Bearer no", None, "mails").status == 401


def test_the_key_of_the_environment_is_one_of_its_own(store: KeyStore) -> None:
    ring = Keyring(None, digest_of("sesame"))
    assert ring.check("Bearer sesame", None, "any").name == "RAYCLF_API_KEY"
    assert refused(ring, "Bearer no").status == 401
    assert refused(Keyring(None), "Bearer ").status == 401
    both = Keyring(store, digest_of("sesame"))
    assert both.check(None, "sesame").id == "environment"


def test_without_a_store_the_key_of_the_environment_is_good_for_ever(clock: Clock) -> None:
    ring = Keyring(None, digest_of("from the environment"), clock=clock)
    clock.seconds += 30 * 24 * 3600
    assert ring.check("Bearer from the environment").id == "environment"
    assert refused(ring, "Bearer another").status == 401


def test_nobody_is_asked_where_no_key_is_required(store: KeyStore) -> None:
    assert Keyring(store, required=False).check(None, None, "any").id == "anonymous"


def test_changes_are_seen_within_seconds(store: KeyStore, clock: Clock) -> None:
    ring = Keyring(store, clock=clock)  # there is no file yet
    key, token = store.create("a")
    assert refused(ring, f"Bearer {token}").status == 401
    clock.seconds += keyring.EVERY_S
    assert ring.check(f"Bearer {token}") == key
    store.revoke("a")
    clock.seconds += keyring.EVERY_S / 2
    assert ring.check(f"Bearer {token}") == key
    clock.seconds += keyring.EVERY_S / 2
    assert refused(ring, f"Bearer {token}").status == 401


def test_a_file_that_did_not_change_is_not_read(store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token = store.create("a")
    ring = Keyring(store, clock=clock)
    reads: list[None] = []
    real = store.list
    monkeypatch.setattr(store, "list", lambda: (reads.append(None), real())[1])
    for _ in range(10):
        clock.seconds += keyring.EVERY_S
        ring.check(f"Bearer {token}")
    assert reads == []


def test_a_change_that_looks_like_none_is_seen_later(store: KeyStore, clock: Clock) -> None:
    _, token = store.create("a")
    path = Path(store.path)
    before = path.stat()
    ring = Keyring(store, clock=clock)
    path.write_text(path.read_text().replace(digest_of(token), "0" * 64))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.seconds += keyring.EVERY_S
    ring.check(f"Bearer {token}")
    clock.seconds += 30
    assert refused(ring, f"Bearer {token}").status == 401


def test_a_store_that_cannot_be_read_keeps_its_keys_for_a_while(store: KeyStore, clock: Clock) -> None:
    _, token = store.create("a")
    ring = Keyring(store, clock=clock)
    whole = Path(store.path).read_text()
    Path(store.path).write_text("{")
    clock.seconds += 200
    ring.check(f"Bearer {token}")
    clock.seconds += 200
    error = refused(ring, f"Bearer {token}")
    assert (error.status, error.headers["Retry-After"]) == (503, "10")
    Path(store.path).write_text(whole)
    clock.seconds += keyring.EVERY_S
    assert ring.check(f"Bearer {token}").name == "a"
    Path(store.path).unlink()  # all keys are gone
    clock.seconds += keyring.EVERY_S
    assert refused(ring, f"Bearer {token}").status == 401


def test_a_damaged_store_stops_the_start(store: KeyStore) -> None:
    Path(store.path).write_text("{")
    with pytest.raises(StorageError, match="not a store of keys"):
        Keyring(store)


def test_requests_that_wait_share_one_look_at_the_store(
    store: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = store.create("a")
    ring = Keyring(store, clock=clock)
    store.revoke("a")
    clock.seconds += keyring.EVERY_S
    asked: list[bool] = []
    real = storage.size_and_version

    def slow(path: str) -> dict[str, object]:
        asked.append(threading.current_thread() is threading.main_thread())
        return real(path)

    monkeypatch.setattr(storage, "size_and_version", slow)

    async def request() -> int:
        await ring.refreshed()
        return refused(ring, f"Bearer {token}").status

    async def requests() -> list[int]:
        gone = asyncio.ensure_future(request())
        await asyncio.sleep(0)
        gone.cancel()  # its client went away; the others still get their look
        return await asyncio.gather(*(request() for _ in range(20)))

    assert asyncio.run(requests()) == [401] * 20
    assert asked == [False, False]  # has it changed, and once more before it was read


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.text(), st.none() | st.text(), st.booleans())
def test_no_other_text_is_let_in(store: KeyStore, text: str, api_key: str | None, bearer: bool) -> None:
    if not store.list():
        store.create("a")
    assert refused(Keyring(store), f"Bearer {text}" if bearer else text, api_key).status == 401


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.data())
def test_a_key_with_any_letter_changed_is_refused(store: KeyStore, data: st.DataObject) -> None:
    _, token = store.create("a")
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters().filter(lambda c: c != token[place] and not c.isspace()))
    assert refused(Keyring(store), f"Bearer {token[:place]}{letter}{token[place + 1 :]}").status == 401


def test_a_store_that_replicas_on_other_nodes_read(s3: S3Server, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAYCLF_HOME", f"s3://{s3.new_bucket()}/home")
    replica = Keyring(KeyStore(), clock=clock)
    _, token = KeyStore().create("a")
    assert refused(replica, f"Bearer {token}").status == 401
    clock.seconds += keyring.EVERY_S
    assert replica.check(f"Bearer {token}").name == "a"
