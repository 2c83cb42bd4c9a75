"""A search with real trials: the best is kept, a failed and a stopped one do no harm, and nothing stays reserved."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from cpus import wait_for_cpus

import rayclf
from rayclf.demo.lessons import data_file
from rayclf.errors import ConfigError, DataError, RayclfError
from rayclf.training.search.record import Search
from rayclf.training.search.tune import tune

RATE = "train.learning_rate"


@pytest.fixture(scope="module")
def few_questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 of the demo's questions."""
    lines = data_file("questions.csv").read_text().splitlines()[:97]
    file = tmp_path_factory.mktemp("data") / "few.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def found(
    cluster: None, few_questions: Path, backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Search, list[dict[str, object]]]:
    """Three trials, one of which has a backbone that is not there, and what was told."""
    told: list[dict[str, object]] = []
    missing = tmp_path_factory.mktemp("empty")
    search = tune(
        few_questions,
        tmp_path_factory.mktemp("searches") / "s",
        backbone=str(backbone("bert")),
        overrides={"train.epochs": 2, RATE: 3e-3, "train.precision": "fp32", "data.validation": 0.2},
        search=[f"model.backbone={backbone('bert')},{missing}", f"{RATE}=1e-9,3e-3"],
        trials=3,
        on_event=told.append,
    )
    return search, told


def test_the_best_run_is_kept_and_predicts(found: tuple[Search, list[dict[str, object]]]) -> None:
    search, _ = found
    done = [trial for trial in search.trials if trial.state == "done"]
    assert search.trials[0].state == "done"  # the settings as they were given are never stopped
    assert search.trials[0].values[RATE] == 3e-3
    assert search.winner.score == max(trial.score or 0 for trial in done)
    assert search.best.status["state"] == "done"
    assert {"validation", "test"} <= set(search.best.metrics)
    classifier = rayclf.Classifier.load(search.artifact)
    assert classifier.predict(["Which organelle makes ATP?"])
    assert not list((search.folder / "trials").rglob("rayclf.json"))  # the losers' artifacts and checkpoints are gone


def test_curves_hold_what_was_evaluated_after_the_first_step(found: tuple[Search, list[dict[str, object]]]) -> None:
    search, _ = found
    steps = [step for step, _ in search.winner.curve]
    assert steps == sorted(set(steps))
    assert 0 not in steps
    assert len(steps) == 2  # one an epoch
    assert "<svg" in (search.folder / "tune.html").read_text()


def test_a_trial_that_fails_is_listed_with_its_error(found: tuple[Search, list[dict[str, object]]]) -> None:
    search, told = found
    failed = [trial for trial in search.trials if trial.state == "failed"]
    assert failed
    assert all(trial.error and trial.error.startswith("BackboneError: ") for trial in failed)
    ended = [event for event in told if event["kind"] == "trial"]
    assert [event["ended"] for event in ended] == [1, 2, 3]
    assert [event["kind"] for event in told[:2]] == ["data", "search"]


def test_no_cpu_stays_reserved(found: tuple[Search, list[dict[str, object]]]) -> None:
    assert wait_for_cpus() == ray.cluster_resources()["CPU"]


def test_ctrl_c_ends_the_trials_and_frees_their_cpus(
    cluster: None, few_questions: Path, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    free, before = wait_for_cpus(), signal.getsignal(signal.SIGINT)
    folder = tmp_path / "s"

    def interrupt() -> None:
        while not list(folder.glob("trials/*/metrics.jsonl")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):  # nothing had been finished
        tune(
            few_questions,
            folder,
            backbone=str(backbone("bert")),
            overrides={"train.epochs": 500, "data.validation": 0.2},
            search={RATE: "1e-4..1e-3"},
            trials=2,
        )
    assert {trial.state for trial in Search(folder).trials} <= {"cut", "waiting"}
    assert signal.getsignal(signal.SIGINT) is before
    assert wait_for_cpus() == free


def test_a_search_that_comes_to_nothing_overwrites_none(
    cluster: None, few_questions: Path, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, told = tmp_path / "s", list[str]()
    (folder / "best" / "artifact").mkdir(parents=True)
    old = {"tune.json": json.dumps({"state": "done"}), "best/artifact/rayclf.json": "{}"}
    for name, text in old.items():
        (folder / name).write_text(text)
    (tmp_path / "bad.py").write_text("def broken(expected, probabilities):\n    raise RuntimeError('of mine')\n")
    with pytest.raises(RayclfError, match="no trial finished.*of mine"):
        tune(
            few_questions,
            folder,
            backbone=str(backbone("bert")),
            overrides={
                "train.epochs": 1,
                "data.validation": 0.2,
                "output.overwrite": True,
                "evaluation.metrics": [f"{tmp_path / 'bad.py'}:broken"],
            },
            trials=1,
            on_event=lambda event: told.append(str(event["kind"])),
        )
    assert {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()} == old
    assert told[-1] == "put back"


def test_mistakes_are_told_before_anything_is_written(few_questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with pytest.raises(ConfigError, match=r"data\.validation"):
        tune(few_questions, folder, overrides={"data.validation": 0})
    with pytest.raises(ConfigError, match=r"train\.epoch'"):
        tune(few_questions, folder, search=["train.epoch=1,2"])
    with pytest.raises(ConfigError, match="--trials"):
        tune(few_questions, folder, trials=0)
    with pytest.raises(ConfigError, match="--minutes"):
        tune(few_questions, folder, minutes=0)
    with pytest.raises(DataError):
        tune(tmp_path / "none.csv", folder)
    assert not folder.exists()
