"""Trackers write what their own readers read back, go on after a resume, and never stop a training."""

from __future__ import annotations

import logging
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rayclf.config import Config
from rayclf.errors import ConfigError
from rayclf.training.run import Run
from rayclf.training.tracking import Tracker, check_trackers, hide_secrets, open_trackers

CONFIG = Config.model_validate(
    {
        "train": {"epochs": 2, "class_weights": {"c++/..": 2.0}},
        "model": {"backbone": "s3://key:hush@bucket/b?sig=hush&x=1"},
    }
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MLflow server of the machine's, and no waiting for one that is down."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run folder that has a report and an artifact."""
    folder = tmp_path / "my run"
    (folder / "artifact").mkdir(parents=True)
    (folder / "artifact" / "rayclf.json").write_text("{}")
    (folder / "report.html").write_text("report")
    return Run(folder)


def step(number: int, loss: float) -> dict[str, Any]:
    return {"kind": "step", "time": 1000.5 + number, "step": number, "epoch": 1, "loss": loss, "learning_rate": 0.1}


def evaluation(number: int, **metrics: Any) -> dict[str, Any]:
    where = {"kind": "evaluation", "part": "validation", "time": 2000.25, "step": number, "epoch": 1}
    return where | {"per_label": [{"f1": 1}], "roc_auc": None, "best": True} | metrics


def feed(tracker: Tracker) -> None:
    tracker.event({"kind": "data", "space": object()})
    for number in range(1, 4):
        tracker.event(step(number, 1 / number))
    tracker.event(evaluation(3, accuracy=0.5, **{"own.c++": 0.25, "../../x": 1, "nan": float("nan")}))


def scalars(folder: Path) -> list[tuple[str, int, float, float]]:
    """Tag, step, value and time of all that TensorBoard's event files hold, and the steps from which to forget."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = []
    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[12 + size + 4 :]
            if event.session_log.status == SessionLog.START:
                found.append(("forget", event.step, 0.0, 0.0))
            for value in event.summary.value:
                found.append((value.tag, event.step, value.simple_value, event.wall_time))
    return found


def mlflow_client(run: Run) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=(run.folder / "mlruns").as_uri())


def mlflow_runs(client: Any, experiment: str = "rayclf") -> list[Any]:
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def test_tensorboard_files_hold_the_numbers(run: Run) -> None:
    (tracker,) = open_trackers(["tensorboard"], run.folder, CONFIG)
    feed(tracker)
    tracker.finish(run, "done")
    found = scalars(run.folder / "tensorboard")
    assert [(tag, at, value, when) for tag, at, value, when in found if tag == "step/loss"] == [
        ("step/loss", 1, 1.0, 1001.5),
        ("step/loss", 2, 0.5, 1002.5),
        ("step/loss", 3, pytest.approx(1 / 3), 1003.5),
    ]
    assert ("validation/accuracy", 3, 0.5, 2000.25) in found
    assert {tag for tag, *_ in found} == {
        "step/loss", "step/learning_rate", "validation/accuracy", "validation/own.c__", "validation/.._.._x",
    }  # fmt: skip


def test_tensorboard_forgets_the_steps_that_a_resumed_run_repeats(run: Run) -> None:
    for start in (1, 3):
        (tracker,) = open_trackers(["tensorboard"], run.folder, CONFIG)
        for number in range(start, start + 3):
            tracker.event(step(number, 1.0))
        tracker.finish(run, "stopped")
    told = [(tag, number) for tag, number, _, _ in scalars(run.folder / "tensorboard") if tag != "step/learning_rate"]
    assert sorted(told) == sorted([("forget", 3), *(("step/loss", n) for n in (1, 2, 3, 3, 4, 5))])


def test_mlflow_reads_back_what_it_was_told(run: Run) -> None:
    (tracker,) = open_trackers(["mlflow"], run.folder, CONFIG)
    feed(tracker)
    client = mlflow_client(run)
    (seen,) = mlflow_runs(client)
    assert seen.info.status == "RUNNING"
    assert seen.info.run_name == "my run"
    tracker.finish(run, "done")
    seen = client.get_run(seen.info.run_id)
    assert seen.info.status == "FINISHED"
    history = client.get_metric_history(seen.info.run_id, "step/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (1, 1.0, 1001500),
        (2, 0.5, 1002500),
        (3, 1 / 3, 1003500),
    ]
    assert seen.data.metrics.keys() == {
        "step/loss", "step/learning_rate", "validation/accuracy", "validation/own.c__", "validation/.._.._x"
    }  # fmt: skip
    params = seen.data.params
    assert params["train.epochs"] == "2"
    assert params["train.class_weights"] == '{"c++/..": 2.0}'
    assert params["model.lora.target_modules"] == "all-linear"
    assert params["train.learning_rate"] == "null"
    assert {file.path for file in client.list_artifacts(seen.info.run_id)} == {"report.html", "rayclf.json"}


def test_no_secret_reaches_mlflow(run: Run) -> None:
    (tracker,) = open_trackers(["mlflow"], run.folder, CONFIG)
    tracker.finish(run, "done")
    (seen,) = mlflow_runs(mlflow_client(run))
    assert seen.data.params["model.backbone"] == "s3://***@bucket/b?sig=***&x=1"
    for file in run.folder.rglob("*"):
        assert not file.is_file() or b"hush" not in file.read_bytes()


@pytest.mark.parametrize(("state", "status"), [("failed", "FAILED"), ("stopped", "KILLED")])
def test_mlflow_knows_how_a_run_ended_without_report(run: Run, state: str, status: str) -> None:
    shutil.rmtree(run.artifact)
    (run.folder / "report.html").unlink()
    (tracker,) = open_trackers(["mlflow"], run.folder, CONFIG)
    tracker.finish(run, state)
    (seen,) = mlflow_runs(mlflow_client(run))
    assert seen.info.status == status


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (1, 2):
        (tracker,) = open_trackers(["mlflow"], run.folder, CONFIG)
        (seen,) = mlflow_runs(mlflow_client(run))
        assert seen.info.status == "RUNNING"
        tracker.event(step(number, 1.0))
        tracker.finish(run, "stopped")
    history = mlflow_client(run).get_metric_history(seen.info.run_id, "step/loss")
    assert [m.step for m in history] == [1, 2]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "another").as_uri())
    open_trackers(["mlflow"], run.folder, CONFIG)
    assert (tmp_path / "another").is_dir()
    assert "no longer has the run" in caplog.text


def test_the_environment_says_where_mlflow_is(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    open_trackers(["mlflow"], run.folder, CONFIG)
    assert len(mlflow_runs(MlflowClient(tracking_uri=(tmp_path / "elsewhere").as_uri()), "ours")) == 1
    assert not (run.folder / "mlruns").exists()


def test_a_server_that_is_not_there_is_told_before_training(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:9")
    with pytest.raises(ConfigError) as error:
        open_trackers(["mlflow"], run.folder, CONFIG)
    assert str(error.value).startswith("output.track: mlflow cannot use http://***@127.0.0.1:9: ")
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_told(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    check_trackers([name])
    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(name, name), None)
    with pytest.raises(ConfigError, match=rf"output.track: {name} needs \w+; install rayclf\[track\]"):
        open_trackers([name], run.folder, CONFIG)
    assert not (run.folder / "mlruns").exists()


def test_a_tracker_that_fails_later_warns_once_and_goes_quiet(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    mlflow, tensorboard = open_trackers(["mlflow", "tensorboard"], run.folder, CONFIG)
    shutil.rmtree(run.folder / "mlruns")
    (run.folder / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, "rayclf"):
        for tracker in (mlflow, tensorboard):
            for number in (3, 4):
                tracker.event(evaluation(number, accuracy=0.5))
            tracker.finish(run, "done")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("rayclf")]
    assert [text.split(" failed")[0] for text in told] == ["output.track: mlflow", "output.track: tensorboard"]
    assert all("\n" not in text for text in told)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("https://token@host/x", "https://***@host/x"),
        ("abfs://c@host/x?sv=1&SIG=abc%2F&se=2", "abfs://***@host/x?sv=1&SIG=***&se=2"),
        ("mail me@home, at https://host/a@b", "mail me@home, at https://host/a@b"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert hide_secrets(text) == shown


def test_no_tracker_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, rayclf.training.tracking; assert not {'mlflow', 'tensorboardX'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
