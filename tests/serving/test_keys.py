"""Keys at rest: what the file holds, and what making, rotating and revoking do to it."""

from __future__ import annotations

import multiprocessing
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from rayclf.errors import ConfigError, StorageError
from rayclf.serving.api_errors import ApiError
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import Key, KeyStore, default_store, digest_of, id_of

START = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "home" / "keys.json", now=lambda: START)


def test_the_file_has_no_key_and_is_the_owners(store: KeyStore) -> None:
    old = os.umask(0)
    try:
        key, token = store.create("website", ["tickets"], START + HOUR, 60)
    finally:
        os.umask(old)
    path = Path(store.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    prefix, key_id, secret = token.split("_")
    assert (prefix, key_id) == ("rck", key.id)
    assert len(secret) == 64  # 256 bits in hex
    content = path.read_text()
    assert secret not in content
    assert digest_of(token) in content
    assert store.list() == [key]
    assert key.digest not in repr(key)
    assert "digest" not in key.public()


def test_states_and_models(store: KeyStore) -> None:
    key, _ = store.create("a", ["x", "y", "x"], START + HOUR)
    assert key.models == ("x", "y")
    assert key.allows("x")
    assert not key.allows("z")
    assert (key.state(START), key.state(START + HOUR)) == ("active", "expired")
    assert store.revoke("a").state(START) == "revoked"
    everything, _ = store.create("b")
    assert everything.allows("z")
    assert everything.state(datetime.max.replace(tzinfo=UTC)) == "active"


def test_rotation_leaves_the_old_one_for_the_grace(store: KeyStore) -> None:
    old, old_token = store.create("website", ["tickets"], START + 9 * HOUR, 60)
    new, token = store.rotate("website", 2 * HOUR)
    assert token != old_token
    assert (new.name, new.models, new.expires, new.rate) == (old.name, old.models, old.expires, old.rate)
    (kept, added) = store.list()
    assert (kept.id, kept.expires, added) == (old.id, START + 2 * HOUR, new)
    store.rotate(new.id, 99 * HOUR)
    assert store.list()[1].expires == START + 9 * HOUR  # never longer than it had


def test_a_key_is_meant_by_its_id_or_by_a_name_that_one_active_key_has(store: KeyStore) -> None:
    first, _ = store.create("a")
    store.revoke("a")
    second, _ = store.create("a")
    assert store.revoke("a").id == second.id
    third, _ = store.create("a")
    fourth, _ = store.create("a")
    with pytest.raises(ConfigError, match=f"a: 2 keys have this name; give one of the ids {third.id}, {fourth.id}"):
        store.revoke("a")
    assert store.revoke(first.id).revoked == START
    with pytest.raises(ConfigError, match="zzz: no key has this id or name; rayclf keys list shows all"):
        store.revoke("zzz")
    with pytest.raises(ConfigError, match="is revoked; make a new key"):
        store.rotate(first.id)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": " "}, "NAME ' ': must be"),
        ({"name": "a\nb"}, "must be a few readable characters"),
        ({"models": []}, "--models: a name is empty"),
        ({"models": ["a", ""]}, "--models: a name is empty"),
        ({"expires": START}, "--expires 2026-11-20T12:00:00\\+00:00: has passed already"),
        ({"rate": 0}, "--rate 0: must be at least 1"),
    ],
)
def test_wrong_settings(store: KeyStore, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        store.create(**({"name": "a"} | settings))
    assert store.list() == []


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "the file: input should be"),
        ('{"version": 2}', "version: "),
        ('{"keys": [{"id": "a"}]}', r"keys.0.name: field required"),
    ],
    ids=lambda text: text[:20],
)
def test_a_damaged_store_is_told_and_not_overwritten(store: KeyStore, content: str, what: str) -> None:
    Path(store.path).parent.mkdir()
    Path(store.path).write_text(content)
    for act in (store.list, lambda: store.create("a")):
        with pytest.raises(StorageError, match=what):
            act()
    assert Path(store.path).read_text() == content


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCLF_HOME", "s3://bucket/rayclf?region=eu")
    assert default_store() == "s3://bucket/rayclf/keys.json?region=eu"
    monkeypatch.delenv("RAYCLF_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert default_store() == "/somewhere/.rayclf/keys.json"


def _create(path: str, count: int) -> None:
    for number in range(count):
        KeyStore(path).create(f"key {number}")


def test_programs_that_write_at_once_lose_nothing(store: KeyStore) -> None:
    context = multiprocessing.get_context("fork")
    programs = [context.Process(target=_create, args=(store.path, 10)) for _ in range(3)]
    for program in programs:
        program.start()
    for program in programs:
        program.join()
    assert len({key.id for key in store.list()}) == 30


@given(st.text())
def test_any_text_has_a_digest_and_an_id_or_none(text: str) -> None:
    assert len(digest_of(text)) == 64
    key_id = id_of(text)
    assert key_id == "" or text.split("_")[:2] == ["rck", key_id]


def test_a_key_of_any_letters_is_hashed_as_it_was_sent() -> None:
    assert digest_of("schlüssel".encode().decode("latin-1")) == digest_of("schl\u00fcssel".encode().decode("latin-1"))
    assert digest_of("пароль".encode().decode("latin-1")) == digest_of("пароль")


class Machine(RuleBasedStateMachine):
    """Whatever is done to a store, a ring takes exactly the keys that a plain list of facts says are good."""

    tokens = Bundle("tokens")

    @initialize(tmp=st.uuids())
    def begin(self, tmp: object) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.time = START
        self.store = KeyStore(Path(self.folder.name) / "keys.json", now=lambda: self.time)
        self.good: dict[str, tuple[str, datetime | None]] = {}  # id → token, end
        self.ended: set[str] = set()  # tokens
        self.ring = Keyring(self.store, every_s=0, now=lambda: self.time)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _add(self, key: Key, token: str) -> str:
        self.good[key.id] = (token, key.expires)
        return key.id

    @rule(target=tokens, hours=st.none() | st.integers(1, 5))
    def create(self, hours: int | None) -> str:
        return self._add(*self.store.create("name", expires=self.time + hours * HOUR if hours else None))

    @rule(target=tokens, which=tokens, hours=st.integers(0, 3))
    def rotate(self, which: str, hours: int) -> str:
        try:
            made = self.store.rotate(which, hours * HOUR)
        except ConfigError:
            assert which not in self._active()
            return which
        token, end = self.good[which]
        grace = self.time + hours * HOUR
        self.good[which] = (token, min(grace, end or grace))
        return self._add(*made)

    @rule(which=tokens)
    def revoke(self, which: str) -> None:
        self.store.revoke(which)
        token, _ = self.good[which]
        self.good[which] = (token, START)  # no instant is before it

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.time += hours * HOUR

    def _active(self) -> set[str]:
        return {key for key, (_, end) in self.good.items() if end is None or end > self.time}

    @invariant()
    def the_ring_takes_the_good_ones(self) -> None:
        taken = set()
        for key_id, (token, _) in self.good.items():
            try:
                assert self.ring.check(f"Bearer {token}").id == key_id
                taken.add(key_id)
            except ApiError as error:
                assert error.status == 401
        assert taken == self._active()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
