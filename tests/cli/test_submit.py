"""``--address``: where it may stand, and what it refuses before anything is sent. A real job: test_jobs.py."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.cli import main, submit
from rayclf.errors import ConfigError, ResourceError

words = st.lists(st.sampled_from(["train", "a.csv", "-o", "runs/x", "--set", "a=1", "--addresses", "--"]))


@given(words, words, st.booleans())
def test_the_address_may_stand_anywhere_before_the_end_of_options(
    before: list[str], after: list[str], one: bool
) -> None:
    given_as = ["--address=http://h:1"] if one else ["--address", "http://h:1"]
    address, rest = submit.take_address([*before, *given_as, *after])
    if "--" in before:
        assert (address, rest) == (None, [*before, *given_as, *after])
    else:
        assert (address, rest) == ("http://h:1", [*before, *after])


def test_an_address_that_is_forgotten() -> None:
    for words in (["train", "--address"], ["--address=", "train"]):
        with pytest.raises(ConfigError, match="--address: needs an address"):
            submit.take_address(words)


@pytest.mark.parametrize(
    ("address", "command", "told"),
    [
        ("head:8265", ["train"], "--address head:8265: must begin with http://"),
        ("http://h:1", ["serve", "x"], "'serve' runs on this machine; on a cluster run one of data, train"),
        ("http://h:1", ["-h"], "there is no command to run"),
    ],
)
def test_what_cannot_be_a_job(address: str, command: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        submit.submit(address, command)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:2")  # Ray alone would ask this one
    with pytest.raises(ResourceError, match=r"--address http://127\.0\.0\.1:1: cannot be reached .*:1"):
        submit.submit("http://127.0.0.1:1", ["train", "a.csv", "-o", "b"])


def test_the_command_line_submits_instead_of_running(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(submit, "submit", lambda address, words: sent.append((address, words)) or 130)
    monkeypatch.setattr(sys, "argv", ["rayclf", "train", "a.csv", "--address", "ray://h:10001", "-o", "b"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 130
    assert sent == [("ray://h:10001", ["train", "a.csv", "-o", "b"])]


def test_an_output_that_would_be_lost(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for command in (["train", "a.csv", "-o", "x"], ["score", "a", "b", "x"], ["data", "prepare", "a", "-o", "x"]):
        monkeypatch.setattr(sys, "argv", ["rayclf", *command])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: output: 'x' would be lost")
