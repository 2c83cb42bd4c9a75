"""The versions of a deployment, kept in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.errors import ConfigError, StorageError
from rayclf.serving import record
from rayclf.serving.record import Options, Record

BLANK = Record(name="tickets", route="/tickets", host="127.0.0.1", port=8000)
OPTIONS = Options(artifact="/runs/tickets")
MODELS = {"tickets": "/runs/tickets/artifact"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYCLF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_written_is_read(home: Path) -> None:
    assert (record.names(), record.read("tickets")) == ([], None)
    made = BLANK.with_version(OPTIONS, 100, MODELS).with_version(OPTIONS, 10, MODELS)
    record.write(made)
    assert record.read("tickets") == made
    assert list(record.read("tickets").shares) == [1, 2]  # type: ignore[union-attr]
    assert record.names() == ["tickets"]
    record.forget("tickets")
    record.forget("tickets")
    assert record.names() == []


def test_a_trial_its_promotion_and_the_way_back() -> None:
    one = BLANK.with_version(OPTIONS, 100, MODELS)
    assert one.shares == {1: 100}
    trial = one.with_version(OPTIONS, 10, MODELS)
    assert trial.shares == {1: 90, 2: 10}
    assert (trial.main.number, trial.trial and trial.trial.number) == (1, 2)
    assert trial.rolled_back().shares == {1: 100}
    assert trial.promoted(40).shares == {1: 60, 2: 40}
    done = trial.promoted(100)
    assert done.shares == {2: 100}
    assert done.rolled_back().shares == {1: 100}
    again = done.rolled_back().with_version(OPTIONS, 100, MODELS)
    assert again.shares == {3: 100}
    assert again.rolled_back().shares == {1: 100}  # what it took the place of, not the one that was given up


def test_there_is_nothing_before_the_first_and_nothing_to_promote() -> None:
    one = BLANK.with_version(OPTIONS, 100, MODELS)
    with pytest.raises(ConfigError, match="version 1 has none before it"):
        one.rolled_back()
    with pytest.raises(ConfigError, match="no version is on trial"):
        one.promoted(100)


@given(st.lists(st.sampled_from(["new", "trial", "promote", "rollback"]), max_size=12))
def test_shares_are_always_of_known_versions_and_make_a_hundred(steps: list[str]) -> None:
    current = BLANK.with_version(OPTIONS, 100, MODELS)
    for step in steps:
        try:
            if step in ("new", "trial"):
                current = current.with_version(OPTIONS, 100 if step == "new" else 25, MODELS)
            else:
                current = current.promoted(100) if step == "promote" else current.rolled_back()
        except ConfigError:
            continue
        assert sum(current.shares.values()) == 100
        assert set(current.shares) <= {version.number for version in current.versions}
        assert 1 <= len(current.shares) <= 2
        assert Record.model_validate_json(current.model_dump_json()) == current


@pytest.mark.parametrize("name", ["", "Tickets", "a/b", "../x", "-a", "a-", "a" * 64, "ä"])
def test_names_that_no_address_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match="NAME"):
        record.read(name)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "tickets"}', "{"])
def test_a_damaged_record_is_named(text: str, home: Path) -> None:
    (home / "deployments").mkdir(parents=True)
    (home / "deployments" / "tickets.json").write_text(text)
    with pytest.raises(StorageError, match="tickets.json: not the record of a deployment"):
        record.read("tickets")
