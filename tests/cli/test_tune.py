"""``rayclf tune``: flags become arguments, trials become lines and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rayclf.cli import tune as command
from rayclf.cli.show import console
from rayclf.training.search import tune as searching
from rayclf.training.search.record import Board, Search, Trial
from rayclf.training.search.space import Range

METRICS = {"validation": {"rows": 5, "accuracy": 0.5, "per_label": []}}
VALUES = {"train.learning_rate": 0.001}
app = typer.Typer()
app.command()(command.tune)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What each call of the search was given; it makes two trials, of which one fails."""
    given: list[dict[str, Any]] = []

    def tune(data: str, output: str, *, on_event: Any, **rest: Any) -> Search:
        given.append({"data": data, "output": output, **rest})
        space = {"train.learning_rate": Range(1e-5, 1e-3)}
        on_event({"kind": "search", "space": space, "trials": 2, "concurrent": 1, "first": VALUES})
        facts = {"data": data, "space": {path: str(domain) for path, domain in space.items()}}
        board = Board(tmp_path / "s", facts, "f1_macro", False, [Trial("0", VALUES), Trial("1", VALUES)])
        artifact = board.place(board.trials[0]) / "artifact"
        artifact.mkdir(parents=True)
        (artifact / "rayclf.json").write_text(json.dumps({"metrics": METRICS}))
        board.update(0, curve=((4, 0.75),))
        for number, state, error in ((0, "done", None), (1, "failed", "DataError: no [rows]")):
            trial = board.end(number, state, error, 9.0)
            on_event({"kind": "trial", "trial": trial, "ended": number + 1, "of": 2, "left": 120.0, "best": "0"})
        on_event({"kind": "put back"})
        return board.finish("stopped" if rest["minutes"] == 7 else "done")

    monkeypatch.setattr(searching, "tune", tune)
    return given


def run(*flags: str) -> Any:
    with console.capture() as captured:
        result = CliRunner().invoke(app, [__file__, "-o", "out", *flags])
    result.shown = captured.get()  # type: ignore[attr-defined]
    return result


def test_flags_reach_the_search(calls: list[dict[str, Any]]) -> None:
    assert run("--search", "train.epochs=1..4", "--trials", "3", "--set", "train.seed=5", "--keep").exit_code == 0
    assert calls[0]["search"] == ["train.epochs=1..4"]
    assert (calls[0]["trials"], calls[0]["minutes"], calls[0]["keep"]) == (3, None, True)
    assert calls[0]["overrides"] == {"train.seed": 5}


def test_flags_tell_how_rows_are_read(calls: list[dict[str, Any]]) -> None:
    assert run("--text", "a", "--text-pair", "b", "--separator", ";", "--overwrite").exit_code == 0
    read = {"data.text": "a", "data.text_pair": "b", "data.separator": ";"}
    assert calls[0]["overrides"] == {**read, "output.overwrite": True}


def test_a_line_for_each_trial_and_a_table_at_the_end(calls: list[dict[str, Any]]) -> None:
    shown = run().shown
    assert "1/2  trial 0  learning_rate 0.001  done  0.7500  best so far  2 min left" in " ".join(shown.split("\n"))
    assert "failed: DataError: no [rows]" in shown
    assert "is in its place again" in " ".join(shown.split())
    assert "trials by f1_macro" in shown
    assert "best      " in shown
    assert "(trial 0)" in shown


def test_json_is_the_record_and_nothing_else(calls: list[dict[str, Any]]) -> None:
    result = run("--json")
    assert result.shown == ""
    printed = json.loads(result.stdout)
    assert printed["winner"] == "0"
    assert printed["metrics"] == METRICS
    assert printed["trials"][1]["error"] == "DataError: no [rows]"
    assert printed["run"].endswith("best")


def test_a_search_that_was_stopped_tells_its_best_and_exits_as_stopped(calls: list[dict[str, Any]]) -> None:
    result = run("--minutes", "7")
    assert result.exit_code == 130
    assert "artifact" in result.shown
