"""The run folder: laid out for a new run, never over something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayclf.config import Config, load_config
from rayclf.errors import OutputError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.training.journal import Journal
from rayclf.training.run import Run, check_place, create_run

SPACE = LabelSpace(("a", "b"), ProblemType.MULTICLASS)


def test_a_run_tells_itself_from_disk(tmp_path: Path) -> None:
    run = create_run(tmp_path / "x", Config(), SPACE, {"rows": {"train": 3}})
    assert load_config(run.folder / "config.yaml") == Config()
    journal = Journal(run.folder)
    journal.event({"kind": "step", "step": 1, "epoch": 1, "loss": float("nan")})
    again = Run(tmp_path / "x")
    assert again.status["state"] == "running"
    assert (again.status["step"], again.status["rows"]) == (1, {"train": 3})
    assert again.events[0]["loss"] is None  # NaN is not JSON
    again.write_status(state="failed", error="why")
    assert run.status["error"] == "why"


def test_places(tmp_path: Path) -> None:
    assert check_place(tmp_path / "new", overwrite=False) == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_place(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError, match="exists and is not a run"):
        check_place(tmp_path, overwrite=True)
    old = create_run(tmp_path / "run", Config(), SPACE, {})
    (old.folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match="--overwrite"):
        check_place(old.folder, overwrite=False)
    assert create_run(check_place(old.folder, overwrite=True), Config(), SPACE, {}).events == []
