"""``rayclf runs``: what it prints, its exit codes, and that it asks before it deletes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from invoking import invoke

sys.path.append(str(Path(__file__).parents[1] / "training"))
from fake_run import make_run

from rayclf.cli.runs import app
from rayclf.cli.show import console
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


def run(*words: str | Path, code: int = 0, answer: str | None = None) -> str:
    return invoke(app, *words, code=code, answer=answer)


def asked(*words: str | Path) -> Any:
    return json.loads(run(*words, "--json"))


def test_list(runs: Path) -> None:
    lines = run("list", runs).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["large", "failed"], ["small", "done"]]
    assert "300/300" in lines[2]
    assert [one["state"] for one in asked("list", runs)] == ["failed", "done"]
    (runs / "empty").mkdir()
    assert "no runs" in run("list", runs / "empty")


def test_list_below_a_relative_folder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs.parent)
    for folder in (runs.name, f"{runs.name}/", f"./{runs.name}"):
        assert [line.split()[0] for line in run("list", folder).splitlines()[1:]] == ["large", "small"]
    monkeypatch.chdir(runs)
    assert run("list", "small").splitlines()[1].split()[0] == "small"


def test_list_loses_nothing_on_a_narrow_terminal(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = run("list", runs)
    monkeypatch.setattr(console, "_width", 30)
    assert run("list", runs) == wide
    assert len(wide.splitlines()[1]) > 60


def test_show(runs: Path) -> None:
    told = run("show", runs / "large")
    assert "out of memory" in told
    assert "f1_macro" in told
    assert asked("show", runs / "large")["settings"]["train.epochs"] == 9
    with pytest.raises(OutputError, match="not a run"):
        run("show", runs)


def test_follow_exits_as_the_run_ended(runs: Path) -> None:
    lines = run("follow", runs / "small", "-n", "2").splitlines()
    assert "evaluation of step 300 on validation rows: accuracy" in lines[0]
    assert lines[-1].endswith("done")
    assert len(lines) == 3
    lines = run("follow", runs / "large", "-n", "0", "--json", code=1).splitlines()
    assert json.loads(lines[0]) == {"kind": "ended", "state": "failed", "error": "out of memory"}


def test_compare(runs: Path) -> None:
    told = asked("compare", runs / "small", runs / "large")
    assert told["settings"] == {"train.epochs": [3, 9]}
    assert told["metrics"]["test f1_macro"][0] == told["metrics"]["test f1_macro"][1]
    assert "train.epochs" in run("compare", runs / "small", runs / "large")
    with pytest.raises(ConfigError, match="two runs"):
        run("compare", runs / "small")


def test_delete_asks(runs: Path) -> None:
    run("delete", runs / "small", code=1, answer="n\n")
    assert (runs / "small").is_dir()
    run("delete", runs / "small", answer="y\n")
    assert not (runs / "small").exists()
    Run(runs / "large").write_status(state="running")
    with pytest.raises(OutputError, match="is training there"):  # and nobody is asked
        run("delete", runs / "large")
    Run(runs / "large").write_status(state="stopped")
    run("delete", runs / "large", "--yes")
    assert [one.name for one in runs.iterdir()] == []
