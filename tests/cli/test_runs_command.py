"""``rayclf runs``: what it prints, its exit codes, and that it asks before it deletes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "training"))
from fake_run import make_run

from rayclf.cli.runs import app
from rayclf.errors import ConfigError, OutputError
from rayclf.training.run import Run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name, state in (("small", "done"), ("large", "failed")):
        run = make_run(tmp_path / name, ("a", "b", "c"))
        run.write_status(state=state, epochs=3, step=300, error=None if state == "done" else "out of memory")
    config = tmp_path / "large" / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 3", "epochs: 9"))
    return tmp_path


def invoke(*words: str | Path, code: int = 0, answer: str | None = None) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def asked(*words: str | Path) -> Any:
    return json.loads(invoke(*words, "--json"))


def test_list(runs: Path) -> None:
    lines = invoke("list", runs).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["large", "failed"], ["small", "done"]]
    assert "300/300" in lines[2]
    assert [one["state"] for one in asked("list", runs)] == ["failed", "done"]
    (runs / "empty").mkdir()
    assert "no runs" in invoke("list", runs / "empty")


def test_show(runs: Path) -> None:
    told = invoke("show", runs / "large")
    assert "out of memory" in told
    assert "f1_macro" in told
    assert asked("show", runs / "large")["settings"]["train.epochs"] == 9
    with pytest.raises(OutputError, match="not a run"):
        invoke("show", runs)


def test_follow_exits_as_the_run_ended(runs: Path) -> None:
    lines = invoke("follow", runs / "small", "-n", "2").splitlines()
    assert "evaluation of step 300 on validation rows: accuracy" in lines[0]
    assert lines[-1].endswith("done")
    assert len(lines) == 3
    lines = invoke("follow", runs / "large", "-n", "0", "--json", code=1).splitlines()
    assert json.loads(lines[0]) == {"kind": "ended", "state": "failed", "error": "out of memory"}


def test_compare(runs: Path) -> None:
    told = asked("compare", runs / "small", runs / "large")
    assert told["settings"] == {"train.epochs": [3, 9]}
    assert told["metrics"]["test f1_macro"][0] == told["metrics"]["test f1_macro"][1]
    assert "train.epochs" in invoke("compare", runs / "small", runs / "large")
    with pytest.raises(ConfigError, match="two runs"):
        invoke("compare", runs / "small")


def test_delete_asks(runs: Path) -> None:
    invoke("delete", runs / "small", code=1, answer="n\n")
    assert (runs / "small").is_dir()
    invoke("delete", runs / "small", answer="y\n")
    assert not (runs / "small").exists()
    Run(runs / "large").write_status(state="running")
    with pytest.raises(OutputError, match="is training there"):  # and nobody is asked
        invoke("delete", runs / "large")
    Run(runs / "large").write_status(state="stopped")
    invoke("delete", runs / "large", "--yes")
    assert [one.name for one in runs.iterdir()] == []
