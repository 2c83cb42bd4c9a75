"""The job scripts, really submitted: to a head of the test's own, with token authentication, by ``ray job submit``."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import rayclf
from rayclf.cluster import cores
from rayclf.demo.lessons import data_file
from rayclf.training.runs import follow, summary

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
NEEDED = ("aiohttp_cors", "opencensus", "colorful")  # of ray[default], which answers job submissions


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass(frozen=True)
class Head:
    """A Ray head; ``env`` is of a client that has its token, ``folder`` what its nodes share."""

    address: str
    env: dict[str, str]
    folder: Path

    def submit(self, script: str, settings: dict[str, object], *options: str) -> subprocess.CompletedProcess[str]:
        """``ray job submit`` of a script under ``jobs/``, as its docstring says it, from a copy of the project."""
        name = self.folder / "project" / f"{script}.yaml"
        name.write_text(yaml.safe_dump(settings))
        command = [RAY, "job", "submit", "--address", self.address, "--working-dir", ".", *options]
        command += ["--runtime-env", "jobs/runtime_env.yaml", "--", sys.executable, f"jobs/{script}.py", name.name]
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(
                command, cwd=name.parent, env=self.env, capture_output=True, text=True, timeout=240, check=False
            )
            # The head answers a little before the process of it that starts jobs does.
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                return done

    def command(self, *words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """``rayclf WORDS --address HEAD`` in the folder ``cwd``, as one runs it on a laptop."""
        command = [sys.executable, "-m", "rayclf.cli.main", *map(str, words), "--address", self.address]
        return subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head with a dashboard on ports of its own, stopped by its process group."""
    if missing := [name for name in NEEDED if name not in sys.modules and importlib.util.find_spec(name) is None]:
        pytest.skip(f"ray job submit needs ray[default]: {', '.join(missing)} not installed")
    if cores() < 2:  # the head's own processes have 15 s to find each other, beside the Ray of the other tests
        pytest.skip("needs two cores: run pytest tests/integration/test_jobs.py by itself")
    folder = tmp_path_factory.mktemp("head")
    place = Path(tempfile.mkdtemp(prefix="ray-"))  # pytest's folders leave no room for the paths of Ray's sockets
    (folder / "project").mkdir()
    shutil.copytree(ROOT / "jobs", folder / "project" / "jobs")
    port, dashboard, agent, client = free_ports(4)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "of-this-test-alone-0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{RAY.parent}:{os.environ['PATH']}",  # the job's python is that of the cluster
    }
    command = [RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--port", str(port)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard), "--include-dashboard", "true"]
    # Ray's own defaults for these two are fixed ports, which another head on the machine may hold.
    command += ["--dashboard-agent-listen-port", str(agent), "--ray-client-server-port", str(client)]
    command += ["--num-cpus", "3", "--object-store-memory", str(100 * 2**20), "--temp-dir", str(place)]
    command += ["--no-monitor", "--include-log-monitor", "false"]  # nothing here scales, and nobody reads those logs
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    made = Head(f"http://127.0.0.1:{dashboard}", env, folder)
    try:
        wait_for(made, process)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)  # with --block, Ray then stops what it has started, and only that
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(place, ignore_errors=True)


def wait_for(head: Head, process: subprocess.Popen[bytes]) -> None:
    """Wait until the head answers."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in (log := (head.folder / "log").read_text()):
        assert process.poll() is None, log
        assert time.monotonic() < deadline, log
        time.sleep(0.2)


def test_train_then_score(head: Head, backbone: Callable[[str], Path]) -> None:
    run = rayclf.Run(head.folder / "run")
    settings = {
        "data": str(data_file("questions.csv")),
        "output": str(run.folder),
        "backbone": str(backbone("bert")),
        "resume": True,
        "config": {"train": {"epochs": 1, "precision": "fp32"}, "resources": {"cpus_per_worker": 0.5}},
    }
    wrong = head.submit("train", settings | {"config": {"train": {"epoch": 1}}})
    assert wrong.returncode == 1  # of ray job submit, which tells the job's own code
    log = wrong.stdout + wrong.stderr
    assert "error: train.yaml: config: unknown key 'train.epoch'; did you mean 'epochs'?" in log
    assert "exit code 2" in log
    assert "Traceback" not in log

    trained = head.submit("train", settings)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "\r" not in trained.stdout
    for told in ("worker(s)", "step 1/", "evaluation of step", "done: artifact"):
        assert told in trained.stdout
    assert summary(run).state == "done"
    assert [event["kind"] for event in follow(run, past=0)] == ["ended"]

    scored = head.submit(
        "score", {"artifact": str(run.artifact), "source": settings["data"], "output": str(head.folder / "scored")}
    )
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert "rows (0 with errors) in" in scored.stdout
    rows = pq.ParquetDataset(head.folder / "scored").read(["error"])
    assert rows.num_rows == len(data_file("questions.csv").read_text().splitlines()) - 1
    assert rows["error"].null_count == rows.num_rows


def test_a_job_that_is_stopped_leaves_a_run_to_go_on_with(head: Head, backbone: Callable[[str], Path]) -> None:
    run = rayclf.Run(head.folder / "stopped")
    settings = {
        "data": str(data_file("questions.csv")),
        "output": str(run.folder),
        "backbone": str(backbone("bert")),
        "resume": True,
        "config": {
            "train": {"epochs": 20, "precision": "fp32"},
            "resources": {"cpus_per_worker": 0.5},
        },
    }
    sent = head.submit("train", settings, "--no-wait", "--submission-id", "long")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    deadline = time.monotonic() + 120
    while not any(event["kind"] == "step" for event in run.events):
        assert time.monotonic() < deadline, (run.folder, summary(run))
        time.sleep(0.5)
    stop = [RAY, "job", "stop", "--address", head.address, "long"]
    stopped = subprocess.run(stop, env=head.env, capture_output=True, text=True, timeout=120, check=False)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert summary(run).state == "stopped"
    assert run.status["error"] is None  # it ended by itself, not by a death
    last = max(event["step"] for event in run.events if event["kind"] == "step")

    again = head.submit("train", settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"going on after step {last}" in again.stdout
    assert summary(run).state == "done"


def test_a_command_of_a_laptop_runs_on_the_cluster(head: Head, backbone: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copy(data_file("questions.csv"), tmp_path / "mine.csv")
    run = rayclf.Run(head.folder / "laptop")
    words = ["train", "mine.csv", "-o", run.folder, "--backbone", backbone("bert"), "--set", "train.epochs=1"]
    words += ["--set", "train.precision=fp32", "--set", "resources.cpus_per_worker=0.5"]
    wrong = head.command(*words, "--set", "train.epoch=1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "unknown key 'train.epoch'; did you mean 'epochs'?" in wrong.stdout
    assert "Traceback" not in wrong.stdout + wrong.stderr

    lost = head.command("train", "mine.csv", "-o", "runs/x", cwd=tmp_path)
    assert lost.returncode == 2
    assert "'runs/x' would be lost" in lost.stdout

    done = head.command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.artifact.exists()
    assert "ray job stop" in done.stderr

    head.env["RAY_AUTH_TOKEN"] += "x"
    refused = head.command("info", run.folder, cwd=tmp_path)
    assert refused.returncode == 2
    assert "the cluster refuses the token" in refused.stderr
