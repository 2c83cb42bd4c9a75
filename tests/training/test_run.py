"""The run folder: laid out for a new run, never over something else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.demo.lessons import data_file
from rayclf.errors import UserError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.training.driver import train
from rayclf.training.journal import Journal
from rayclf.training.run import Run, create_run

SPACE = LabelSpace(("a", "b"), ProblemType.MULTICLASS)


def test_a_run_tells_itself_from_disk(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", Config(), SPACE, {"rows": {"train": 3}})
    assert load_config(run.folder / "config.yaml") == Config()
    journal = Journal(run.folder)
    journal.event({"kind": "step", "step": 1, "epoch": 1, "loss": float("nan")})
    again = Run(str(tmp_path / "x"))
    assert again == Run(tmp_path / "x") == run
    assert again.status["state"] == "running"
    assert (again.status["step"], again.status["rows"]) == (1, {"train": 3})
    assert again.events[0]["loss"] is None  # NaN is not JSON
    again.write_status(state="failed", error="why")
    assert run.status["error"] == "why"


def test_a_killed_writers_last_line_is_not_grown_onto(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", Config(), SPACE, {})
    Journal(run.folder).event({"kind": "step", "step": 1, "epoch": 1})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "step": 2, "epo')
    assert [event["step"] for event in run.events] == [1]
    Journal(run.folder).event({"kind": "step", "step": 2, "epoch": 1})
    assert [event["step"] for event in run.events] == [1, 2]


def test_what_an_interruption_undid_is_no_event(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", Config(), SPACE, {})
    journal = Journal(run.folder)
    for step in (1, 2, 3):
        journal.event({"kind": "step", "step": step, "epoch": 1, "loss": step})
    journal.event({"kind": "resumed", "step": 2, "epoch": 1})
    journal.event({"kind": "step", "step": 3, "epoch": 1, "loss": 30})
    assert [(event["step"], event["loss"]) for event in run.events] == [(1, 1), (2, 2), (3, 30)]
    assert len(run.lines) == 5


def test_a_run_that_begins_again_has_one_baseline(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", Config(), SPACE, {})
    for _ in range(2):  # the first worker dies before its first checkpoint
        journal = Journal(run.folder)
        journal.begin(None)
        journal.event({"kind": "evaluation", "part": "validation", "step": 0, "epoch": 0})
        journal.event({"kind": "step", "step": 1, "epoch": 1})
    assert [(event["kind"], event["step"]) for event in run.events] == [("evaluation", 0), ("step", 1)]
    assert [line["kind"] for line in run.lines].count("resumed") == 1


def test_a_window_that_is_missing_is_no_whole_file(tmp_path: Path) -> None:
    journal = Journal(create_run(tmp_path / "x", Config(), SPACE, {}).folder)
    journal.predictions(1, pa.table({"row": [1]}))
    with pytest.raises(RuntimeError, match="window 0"):
        journal.results({})


def test_predictions_are_in_order_whenever_they_come(tmp_path: Path) -> None:
    journal = Journal(create_run(tmp_path / "x", Config(), SPACE, {}).folder)
    journal.predictions(0, pa.table({"row": [-1]}))  # of a test that a failure broke off
    journal.begin(3)
    for number in (1, 2, 0, 3):
        journal.predictions(number, pa.table({"row": [2 * number, 2 * number + 1]}))
    assert journal.found() is None
    assert not (tmp_path / "x" / "predictions.parquet").exists()
    journal.results({"x": 1})
    assert journal.found() == {"x": 1}
    assert pq.read_table(tmp_path / "x" / "predictions.parquet")["row"].to_pylist() == list(range(8))


def test_a_mistake_in_the_command_does_not_cost_the_old_run(tmp_path: Path) -> None:
    old = create_run(tmp_path / "run", Config(), SPACE, {})
    old.write_status(state="done")
    with pytest.raises(UserError, match=r"train\.class_weights: no label 'physic'; did you mean 'physics'"):
        train(
            data_file("questions.csv"),
            old.folder,
            overrides={"train.class_weights": {"physic": 2}, "output.overwrite": True},
        )
    assert old.status["state"] == "done"
