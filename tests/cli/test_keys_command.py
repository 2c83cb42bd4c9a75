"""``rayclf keys``: what it prints, what it keeps, and one line for mistakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoking import invoke

from rayclf.cli.keys import app, parse_duration, parse_expiry
from rayclf.errors import ConfigError
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import KeyStore

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYCLF_HOME", str(tmp_path))
    return tmp_path


def run(*words: str) -> str:
    return invoke(app, *words)


def asked(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_a_key_from_its_making_to_its_end(home: Path) -> None:
    output = run("create", "website", "--models", "tickets, mails", "--expires", "90d", "--rate", "600")
    token = output.split()[1]
    key = Keyring(KeyStore(home / "keys.json")).check(f"Bearer {token}", None, "mails")
    assert (key.name, key.models, key.rate) == ("website", ("tickets", "mails"), 600)
    assert key.expires is not None
    assert timedelta(89) < key.expires - datetime.now(UTC) < timedelta(91)

    new = asked("rotate", "website", "--grace", "1h")
    assert new["models"] == ["tickets", "mails"]
    listed = asked("list")
    assert [entry["id"] for entry in listed] == [key.id, new["id"]]
    assert {entry["state"] for entry in listed} == {"active"}

    assert run("revoke", key.id) == f"revoked {key.id} (website)\n"
    assert asked("revoke", new["id"])["revoked"]
    listed = run("list")
    assert listed.count("revoked") == 2
    for hidden in (token.split("_")[2], new["key"].split("_")[2], key.digest):
        assert hidden not in listed
        assert hidden not in run("list", "--json")


def test_another_store(tmp_path: Path) -> None:
    store = str(tmp_path / "other.json")
    run("create", "[b]a[/b]", "--store", store)
    assert "[b]a[/b]" in run("list", "--store", store)
    assert asked("list") == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("create", "a", "--expires", "soon"), "--expires soon: neither a duration such as 90d nor a date"),
        (("create", "a", "--expires", "2020-01-01"), "--expires 2020-01-01T00:00:00+00:00: has passed already"),
        (("create", "a", "--models", "a,,b"), "--models: a name is empty"),
        (("create", "a", "--rate", "0"), "--rate 0: must be at least 1"),
        (("create", ""), "NAME '': must be"),
        (("rotate", "x"), "x: no key has this id or name"),
        (("rotate", "x", "--grace", "1y"), "--grace 1y: not a duration; write a number with m, h, d or w"),
        (("revoke", "x"), "x: no key has this id or name"),
    ],
)
def test_mistakes(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*words)
    assert str(caught.value).startswith(line)


def test_times() -> None:
    assert parse_expiry("12h", NOW) == NOW + timedelta(hours=12)
    assert parse_expiry("2w", NOW) == NOW + timedelta(days=14)
    assert parse_expiry("2027-01-31", NOW) == datetime(2027, 1, 31, tzinfo=UTC)
    assert parse_expiry("2027-01-31T08:00+02:00", NOW) == datetime(2027, 1, 31, 6, tzinfo=UTC)


@given(
    st.text(max_size=12)
    | st.from_regex(r"\d{1,9}[mhdwy]|\d{1,5}-\d\d-\d\d(T\d\d:\d\d([+-]\d\d:\d\d)?)?", fullmatch=True)
)
def test_any_time_is_read_or_refused(text: str) -> None:
    try:
        assert parse_expiry(text, NOW).tzinfo is UTC
    except ConfigError as error:
        assert str(error).startswith("--expires")
    try:
        assert parse_duration("--grace", text) >= timedelta(0)
    except ConfigError as error:
        assert str(error).startswith("--grace")
