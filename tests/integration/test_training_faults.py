"""What dies while training, and that nothing is lost by it: real processes, really killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from cpus import wait_for_cpus

import rayclf
from rayclf.config import Config
from rayclf.demo.lessons import data_file
from rayclf.errors import ConfigError, RayclfError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.training.run import create_run

DATA = data_file("questions.csv")
SETTINGS: dict[str, Any] = {
    "model.max_length": 4096,  # more than the backbone reads, and the same again when a run goes on
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.learning_rate": 3e-3,
    "train.precision": "fp32",
    "train.checkpoint_steps": 2,
    "resources.cpus_per_worker": 0.5,
    "evaluation.training_rows": 0,
}
DROPOUT = {"train.dropout": 0.1}  # random numbers must go on where they were, too: each worker has its own


@pytest.fixture(scope="session")
def source(backbone: Callable[[str], Path]) -> str:
    """The backbone of all runs here."""
    return str(backbone("bert"))


@pytest.fixture(scope="session")
def undisturbed(cluster: None, source: str, tmp_path_factory: pytest.TempPathFactory) -> rayclf.Run:
    """The run that every interrupted one has to equal."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    return rayclf.train(DATA, folder, backbone=source, overrides=SETTINGS)


@pytest.fixture(scope="session")
def with_dropout(cluster: None, source: str, tmp_path_factory: pytest.TempPathFactory) -> rayclf.Run:
    """The same with dropout."""
    folder = tmp_path_factory.mktemp("runs") / "dropout"
    return rayclf.train(DATA, folder, backbone=source, overrides=SETTINGS | DROPOUT)


def equal(run: rayclf.Run, other: rayclf.Run) -> None:
    """Both have the same losses in the same steps, and the same metrics."""
    curves = [{event["step"]: event["loss"] for event in one.events if event["kind"] == "step"} for one in (run, other)]
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)
    for part, metrics in other.metrics.items():
        for name, value in metrics.items():
            if isinstance(value, float):
                assert run.metrics[part][name] == pytest.approx(value, abs=1e-5), (part, name)
    assert run.status["state"] == "done"


class At:
    """Calls ``act`` once, at the first event of step ``step``."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act, self.done = step, act, False

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] >= self.step and not self.done:
            self.done = True
            self.act()


def test_a_killed_worker_is_replaced(with_dropout: rayclf.Run, source: str, tmp_path: Path) -> None:
    run = rayclf.Run(tmp_path / "run")

    def kill() -> None:
        os.kill(run.status["processes"]["0"]["pid"], signal.SIGKILL)

    settings = SETTINGS | DROPOUT | {"train.max_failures": 1}
    rayclf.train(DATA, run.folder, backbone=source, overrides=settings, on_event=At(5, kill))
    assert [line["step"] for line in run.lines if line["kind"] == "resumed"]
    equal(run, with_dropout)


def test_a_stop_waits_for_a_checkpoint_and_more_workers_go_on(
    undisturbed: rayclf.Run, source: str, tmp_path: Path
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    settings = SETTINGS | {"train.checkpoint_steps": None}
    with pytest.raises(KeyboardInterrupt):
        rayclf.train(DATA, folder, backbone=source, overrides=settings, on_event=At(3, stop))
    run = rayclf.Run(folder)
    assert run.status["state"] == "stopped"
    assert run.status["ended"]
    assert run.status["step"] == [event["step"] for event in run.events if event["kind"] == "step"][-1]
    assert not run.artifact.exists()
    with pytest.raises(ConfigError, match=r"--resume: train\.epochs is 9"):
        rayclf.train(DATA, folder, backbone=source, overrides={"train.epochs": 9}, resume=True)
    # Ray writes its list of checkpoints in place: this is what a power cut or a full disk leaves of it.
    (folder / "checkpoints" / "checkpoint_manager_snapshot.json").write_bytes(b"")
    ends = []
    watch = At(1, lambda: ends.append(run.status["ended"]))
    rayclf.train(DATA, folder, backbone=source, overrides={"resources.workers": 2}, resume=True, on_event=watch)
    assert ends == [None]  # while it goes on
    (resumed,) = [line["step"] for line in run.lines if line["kind"] == "resumed"]
    assert 3 <= resumed < 14
    assert run.status["resumed"] == 1
    equal(run, undisturbed)
    # Done is done.
    before = (run.folder / "metrics.jsonl").read_bytes()
    told: list[dict[str, Any]] = []
    rayclf.train(DATA, folder, backbone=source, resume=True, on_event=told.append)
    assert told == [{"kind": "done before"}]
    assert (run.folder / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over(undisturbed: rayclf.Run, source: str, tmp_path: Path) -> None:
    """As a power cut leaves one that was on its way to the disk."""

    def stop() -> None:
        raise KeyboardInterrupt

    run = rayclf.Run(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        rayclf.train(
            DATA, run.folder, backbone=source, overrides=SETTINGS | {"train.keep_checkpoints": 2}, on_event=At(5, stop)
        )
    saved = {json.loads(file.read_text())["step"]: file.parent for file in run.folder.glob("checkpoints/*/state.json")}
    last = saved.pop(max(saved))
    os.truncate(last / "state.safetensors", 1000)
    told: list[dict[str, Any]] = []
    rayclf.train(DATA, run.folder, backbone=source, resume=True, on_event=told.append)
    assert {"kind": "damaged checkpoints", "names": [last.name]} in told
    assert [line["step"] for line in run.lines if line["kind"] == "resumed"] == [max(saved)]
    equal(run, undisturbed)


def test_a_mistake_that_is_found_late_leaves_nothing(cluster: None, source: str, tmp_path: Path) -> None:
    lora = {"model.method": "lora", "model.lora.target_modules": ["nowhere"]}
    with pytest.raises(ConfigError, match="nowhere"):
        rayclf.train(DATA, tmp_path / "run", backbone=source, overrides=SETTINGS | lora)
    assert not (tmp_path / "run").exists()
    old = create_run(tmp_path / "old", Config(), LabelSpace(("a", "b"), ProblemType.MULTICLASS), {})
    old.write_status(state="done")
    before, told = old.status, []
    with pytest.raises(ConfigError, match="nowhere"):
        rayclf.train(
            DATA,
            old.folder,
            backbone=source,
            overrides=SETTINGS | lora | {"output.overwrite": True},
            on_event=told.append,
        )
    assert old.status == before
    assert told[-1] == {"kind": "put back"}
    assert {file.name for file in old.folder.iterdir()} == {"config.yaml", "labels.json", "status.json"}


def test_a_second_ctrl_c_leaves_what_may_be_being_written(cluster: None, source: str, tmp_path: Path) -> None:
    run, free = rayclf.Run(tmp_path / "run"), wait_for_cpus()
    unlisted = run.folder / "checkpoints" / "checkpoint_unlisted"

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and not unlisted.exists():
            unlisted.mkdir(parents=True)
            raise KeyboardInterrupt
        if event["kind"] == "stopping":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rayclf.train(DATA, run.folder, backbone=source, overrides=SETTINGS, on_event=stop)
    assert unlisted.exists()
    assert run.status["state"] == "stopped"
    assert wait_for_cpus() == free  # the workers that nobody waited for have ended


def test_a_killed_driver_goes_on_with_the_same_command(with_dropout: rayclf.Run, source: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "rayclf.cli.main", "train", str(DATA), "-o", str(folder), "--resume"]
    command += ["--backbone", source]
    for field, value in (SETTINGS | DROPOUT).items():
        command += ["--set", f"{field}={value}"]
    env = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 400
            while len(rayclf.Run(folder).lines) < 6:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            process.kill()
            process.wait()
        assert rayclf.Run(folder).status["state"] == "running"
        done = subprocess.run(command, env=env, stdout=log, stderr=log, timeout=300, check=False)
    assert done.returncode == 0, (tmp_path / "log").read_text()
    run = rayclf.Run(folder)
    assert run.status["resumed"] == 1
    equal(run, with_dropout)


def test_a_terminal_that_closes_waits_for_a_checkpoint(source: str, tmp_path: Path) -> None:
    """The signal reaches the whole group, as ``kill %1`` and ``timeout`` do, and nothing can be printed any more."""
    run = rayclf.Run(tmp_path / "run")
    command = [sys.executable, "-m", "rayclf.cli.main", "train", str(DATA), "-o", str(run.folder), "--backbone", source]
    for field, value in (SETTINGS | {"train.epochs": 50, "train.checkpoint_steps": 10_000}).items():
        command += ["--set", f"{field}={value}"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}  # a Ray of its own
    terminal, theirs = os.pipe()
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=theirs, stderr=log, start_new_session=True)
    os.close(theirs)
    try:
        deadline = time.monotonic() + 200
        while not (run.folder / "metrics.jsonl").exists() or len(run.lines) < 6:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.close(terminal)
        os.killpg(process.pid, signal.SIGHUP)
        process.wait(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert run.status["state"] == "stopped"
    assert (run.folder / "checkpoints" / "checkpoint_manager_snapshot.json").stat().st_size


def test_a_node_that_is_taken_away_leaves_a_checkpoint_and_training_shrinks(
    undisturbed: rayclf.Run, source: str, tmp_path: Path
) -> None:
    """Preemption, a dead node and elastic workers at once, on a cluster of two nodes of its own."""
    script = Path(__file__).with_name("lost_node.py")
    settings = SETTINGS | {"train.checkpoint_steps": None, "train.max_failures": 1}
    command = [sys.executable, str(script), source, str(DATA), str(tmp_path / "run"), json.dumps(settings)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert told["before"] == [["0", "1"]]
    assert told["after"] == ["0"]
    assert told["resumed"][0] not in (0, 7, 14)  # the ends of epochs, when a checkpoint is due anyway
    equal(rayclf.Run(tmp_path / "run"), undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 16 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_is_one_line_and_training_goes_on_when_there_is_room(
    undisturbed: rayclf.Run, source: str, small_disk: Path
) -> None:
    folder, filler = small_disk / "run", small_disk / "filler"

    def fill() -> None:
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)

    with pytest.raises(RayclfError, match="[Nn]o space") as caught:
        rayclf.train(DATA, folder, backbone=source, overrides=SETTINGS, on_event=At(3, fill))
    assert "\n" not in str(caught.value)
    filler.unlink()
    rayclf.train(DATA, folder, backbone=source, resume=True)
    equal(rayclf.Run(folder), undisturbed)
