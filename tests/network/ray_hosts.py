"""Ray on the hosts of a network: a head that does no work, workers, and jobs that are sent by ``ray job submit``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import yaml
from hosts import Host, Link, Process
from lab import NAMES, Lab

RAY = Path(sys.executable).with_name("ray")
GCS, DASHBOARD, HTTP = 6379, 8265, 8000
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def until(happened: Callable[[], Any], what: str, seconds: float) -> Any:
    """Wait for something, and give what it is; AssertionError where it does not come."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.5)
    return found


class Cluster:
    """A head and workers on hosts of their own: ``with Cluster(lab) as cluster``.

    ``cpus`` are what each node is said to have: with 7 and training workers of 4 no two of these are on one, though a
    node has room for two replicas and a task that reads. ``links`` are bad cables by the name of their host; with
    ``redis`` the head keeps what it knows there. ``away`` are nodes that are to be missed.
    """

    def __init__(
        self,
        lab: Lab,
        workers: tuple[str, ...] = NAMES[1:3],
        *,
        cpus: int = 7,
        links: Mapping[str, Link] = {},  # never changed
        redis: bool = False,
    ) -> None:
        lab.clusters += 1
        self.lab, self.number, self.away, self._cpus = lab, lab.clusters, set[str](), cpus
        self._begin, self._links, self._nodes = workers, links, dict[str, tuple[Host, Process]]()
        self._env = lab.env | {"RAYCLF_HOME": str(lab.folder / f"home-{self.number}")}
        if redis:
            self._env |= {"RAY_REDIS_ADDRESS": lab.redis(), "RAY_external_storage_namespace": f"cluster-{self.number}"}
        self._submitted, self._dead = 0, set[str]()

    def __enter__(self) -> Cluster:
        try:
            self.address = f"http://{self.add('head').address}:{DASHBOARD}"
            self._http = httpx.Client(
                base_url=self.address, headers={"Authorization": f"Bearer {self.lab.token}"}, timeout=10
            )
            until(lambda: self.get("/api/version"), "the head answers", 120)
            for name in self._begin:
                self.add(name)
            until(lambda: set(self._begin) <= set(self.alive()), "all nodes are there", 120)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = self.lab.folder / "logs" / str(self.number)
        for name, (host, process) in self._nodes.items():
            host.kill()
            process.wait(30)
            if kind is not None:
                shutil.copytree(host.folder, kept / name, ignore=_not_logs, dirs_exist_ok=True)
            self.lab.network.remove(host)

    @property
    def names(self) -> list[str]:
        """Of its hosts, up or not."""
        return list(self._nodes)

    def host(self, name: str) -> Host:
        """One of its hosts."""
        return self._nodes[name][0]

    def addresses(self, *names: str) -> list[str]:
        """Those of hosts that are there or will be."""
        return [self.lab.network.addresses[NAMES.index(name)] for name in names]

    def add(self, name: str) -> Host:
        """A new node."""
        host = self.lab.network.host(name, self._links.get(name))
        self._nodes[name] = host, self._start(host)
        return host

    def _start(self, host: Host) -> Process:
        words: list[str | os.PathLike[str]] = [RAY, "start", "--block", "--node-ip-address", host.address]
        words += ["--object-store-memory", str(200 * 2**20), "--include-log-monitor", "false"]
        if host.name == "head":
            words += ["--head", "--port", str(GCS), "--num-cpus", "0", "--include-dashboard", "true", "--no-monitor"]
            words += ["--dashboard-host", host.address, "--dashboard-port", str(DASHBOARD)]
        else:
            words += ["--address", f"{self.host('head').address}:{GCS}", "--num-cpus", str(self._cpus)]
        return host.start(*words, env=self._env)

    def restart(self, name: str) -> None:
        """Start Ray on a host whose power is back, or where it has given up, as what watches over nodes does."""
        host, process = self._nodes[name]
        process.wait(30)
        self._nodes[name] = host, self._start(host)

    def mended(self) -> bool:
        """Whether all nodes are there; starts those anew on which Ray has given up."""
        expected = self._nodes.keys() - self.away
        for name in expected:
            if self._nodes[name][1].poll() is not None:
                self.restart(name)
        return self.alive().keys() == expected

    def get(self, path: str) -> Any:
        """What the head answers; None while it does not."""
        try:
            response = self._http.get(path)
            return response.json() if response.is_success else None
        except (httpx.HTTPError, ValueError):
            return None

    def alive(self) -> dict[str, str]:
        """The ids of nodes that the head takes for alive, by the names of their hosts."""
        told = self.get("/api/v0/nodes?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE")
        nodes = {node["node_ip"]: node["node_id"] for node in told["data"]["result"]["result"]} if told else {}
        return {name: nodes[host.address] for name, (host, _) in self._nodes.items() if host.address in nodes}

    def places(self, class_name: str) -> list[str]:
        """On which hosts living actors of a class are."""
        told = self.get(
            "/api/v0/actors?filter_keys=state&filter_predicates=%3D&filter_values=ALIVE&limit=1000&detail=1"
        )
        names = {node: name for name, node in self.alive().items()}
        actors = told["data"]["result"]["result"] if told else []
        return sorted(names[a["node_id"]] for a in actors if class_name in a["class_name"] and a["node_id"] in names)

    def submit(self, script: str, settings: Mapping[str, object]) -> str:
        """``ray job submit`` of a script under ``jobs/`` from a machine that is no node; the job's id."""
        self._submitted += 1
        name = f"{script}-{self.number}-{self._submitted}"
        (self.lab.project / f"{script}.yaml").write_text(yaml.safe_dump(dict(settings)))
        words = [str(RAY), "job", "submit", "--address", self.address, "--no-wait", "--submission-id", name]
        words += ["--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--", sys.executable]
        words += [f"jobs/{script}.py", f"{script}.yaml"]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(
                words, cwd=self.lab.project, env=self.lab.env, capture_output=True, text=True, check=False, timeout=120
            )
            if done.returncode == 0:
                return name
            # The head answers a little before the process of it that starts jobs does.
            assert "No available agent" in done.stderr, done.stdout + done.stderr
            assert time.monotonic() < deadline, done.stderr

    def drivers_died(self) -> None:
        """The head, on which drivers are, was without power. Of their jobs Ray 2.60 says that they run, until the head
        that came back is sent another one."""
        told = self.get("/api/jobs/") or []
        self._dead |= {job["submission_id"] for job in told if job["submission_id"] and job["status"] not in ENDED}

    def state(self, job: str) -> str:
        """Ray's word on a job; empty while the head does not answer."""
        if job in self._dead:
            return "FAILED"
        told = self.get(f"/api/jobs/{job}")
        return told["status"] if told else ""

    def log(self, job: str) -> str:
        """What a job has said."""
        return (self.get(f"/api/jobs/{job}/logs") or {}).get("logs", "")

    def reach(self, job: str, happened: Callable[[], Any], seconds: float = 180) -> None:
        """Wait for something that a job does."""
        try:
            until(lambda: happened() or self.state(job) in ENDED, job, seconds)
            assert happened(), f"{job} has ended"
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.log(job)}") from None

    def wait(self, job: str, seconds: float = 300) -> str:
        """The state in which a job ended."""
        self.reach(job, lambda: self.state(job) in ENDED, seconds)
        return self.state(job)

    def do(self, script: str, settings: Mapping[str, object], seconds: float = 300) -> None:
        """A job from its submission to its good end."""
        job = self.submit(script, settings)
        assert self.wait(job, seconds) == "SUCCEEDED", f"{job}: {self.log(job)}"


def _not_logs(folder: str, names: list[str]) -> set[str]:
    """Of what a host leaves, all but the logs."""
    kept = {name for name in names if name.startswith(("session_2", "logs", "log", "ray")) or ".log" in name}
    kept |= {name for name in names if name.endswith((".out", ".err"))} if folder.endswith("logs") else set()
    return {n for n in names if n not in kept or os.path.islink(os.path.join(folder, n))}
