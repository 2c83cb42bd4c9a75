"""``rayclf train`` asks where it cannot know, on a terminal alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import rayclf
from rayclf.cli import train as command
from rayclf.errors import AmbiguousColumn, ConfigError


class Asked(Exception):
    """Training got this far."""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The overrides of each call of :func:`rayclf.train`, which wants to know the text column."""
    calls: list[dict[str, Any]] = []

    def train(data: str, output: str, *, overrides: dict[str, Any], **_: Any) -> None:
        calls.append(dict(overrides))
        if "data.text" not in overrides:
            raise AmbiguousColumn("x.csv: several columns", "--text", ["title", "body"])
        raise Asked

    monkeypatch.setattr(rayclf, "train", train)
    return calls


def test_on_a_terminal_it_asks_until_the_answer_is_a_column(
    given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["nonsense", "body"])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(typer, "prompt", lambda question: next(answers))
    with pytest.raises(Asked):
        command.train(__file__, "out", set_=["train.epochs=2"])
    assert given[-1] == {"train.epochs": 2, "data.text": "body"}


def test_flags_tell_how_rows_are_read(given: list[dict[str, Any]]) -> None:
    with pytest.raises(Asked):
        command.train(
            __file__, "out", text="a", text_pair="b", template="{a}", messages="m", label="l", separator=";",
            labels=__file__, set_=["data.text=other", "data.label=l2"],
        )  # fmt: skip
    read = {"text": "a", "text_pair": "b", "template": "{a}", "messages": "m", "label": "l", "separator": ";"}
    assert given[-1] == {f"data.{name}": value for name, value in read.items()} | {"labels.file": __file__}


def test_elsewhere_it_fails(given: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False))
    with pytest.raises(AmbiguousColumn):
        command.train(__file__, "out")
    assert len(given) == 1


def test_a_run_cannot_go_on_and_be_replaced(given: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        command.train(__file__, "out", resume=True, overwrite=True)
    assert not given
