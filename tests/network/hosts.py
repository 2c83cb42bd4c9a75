"""Hosts of a network on one machine: namespaces of Linux, each with a cable to one switch, that lose power and contact.

    with Network(folder) as network:
        one, two = network.host("one"), network.host("two", link=Link(delay_s=0.05, loss=0.01))
        one.run("ping", "-c", "1", two.address)
        two.cut(); two.join(); two.kill(); two.boot(); two.slow_down(cores=0.25)

A host has its own network, name, processes and ``/tmp/ray``; the disk is that of the machine, as if all had mounted it.
It is ended through the first process of its namespace of processes, with which the kernel ends all others: nothing is
left, whatever has detached itself. A cable is a veth pair to a bridge, or a relay that delays and loses frames. This
machine takes part at ``network.gateway``, there is no way out. Root on Linux only: see :func:`unavailable`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

RELAY = Path(__file__).with_name("relay.py")
MARK = "rayclf-hosts"  # before the names of our namespaces, and then the process that they belong to
# Names of hosts resolve as in any real network; the shell then takes in the processes that others leave behind.
INIT = (
    "set -e; hostname $0; mkdir -p /tmp/ray; mount --make-rprivate /; mount --bind $1/ray /tmp/ray; "
    "mount --bind $1/hosts /etc/hosts; echo up; exec >&-; while :; do sleep 1000 & wait; done"
)
# With the parent's death the kernel ends a process too, so that a killed test leaves no host.
CPU_GROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))  # by the first and the second version of cgroups
PERIOD_US = 20_000  # in which a slow host gets its share
WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Link:
    """A bad cable: what it adds to the way of a frame in each direction, and the share of frames that it loses."""

    delay_s: float
    loss: float


@cache
def unavailable() -> str:
    """Why there can be no hosts here; empty where there can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "hosts are network namespaces, which need root on Linux"
    if missing := [name for name in ("ip", "unshare", "nsenter") if shutil.which(name) is None]:
        return f"hosts are network namespaces, which need {', '.join(missing)} (iproute2, util-linux)"
    name = f"{MARK}-{os.getpid()}-probe"
    if (done := _ip("netns", "add", name, check=False)).returncode:
        return f"network namespaces are not allowed here: {done.stderr.strip()}"
    _ip("netns", "del", name)
    bridge = f"rayclf{os.getpid()}"  # other processes of the tests ask at the same moment
    if (done := _ip("link", "add", bridge, "type", "bridge", check=False)).returncode:
        return f"bridges are not allowed here: {done.stderr.strip()}"
    _ip("link", "del", bridge)
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"bad cables need TAP devices: /dev/net/tun: {error.strerror}"
    return ""


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


def sweep() -> None:
    """Take down what a run that was killed has left: namespaces and bridges whose process is gone."""
    named = [item["name"] for item in json.loads(_ip("-json", "netns", "list").stdout or "[]")]
    for name in named:
        owner = name.removeprefix(f"{MARK}-").split("-")[0]
        if name.startswith(MARK) and owner.isdigit() and not psutil.pid_exists(int(owner)):
            for pid in _ip("netns", "pids", name).stdout.split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            _ip("netns", "del", name)
    for link in json.loads(_ip("-json", "link", "show", "type", "bridge").stdout or "[]"):
        owner = link.get("ifname", "").removeprefix("rayclf")
        if link.get("ifname", "").startswith("rayclf") and owner.isdigit() and not psutil.pid_exists(int(owner)):
            _ip("link", "del", link["ifname"])


class Host:
    """One host, up from the start; made by :meth:`Network.host`."""

    def __init__(self, network: Network, name: str, number: int, link: Link | None) -> None:
        self.name, self.address = name, network.addresses[number]
        self.folder = network.folder / name
        self._space, self._port = f"{MARK}-{os.getpid()}-{name}", f"{network.bridge}.{number}"
        self._relay: Process | None = None
        self._group = next(folder for folder in CPU_GROUPS if folder.is_dir()) / self._space
        (self.folder / "ray").mkdir(parents=True)
        _ip("netns", "add", self._space)
        inner = f"{self._port}i"
        if link is None:
            _ip("link", "add", self._port, "type", "veth", "peer", "name", inner)
        else:
            command = [sys.executable, RELAY, self._port, inner, str(link.delay_s), str(link.loss)]
            self._relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._relay.stdout is not None
            assert self._relay.stdout.readline() == b"up\n", "the relay did not start"
        _ip("link", "set", inner, "netns", self._space, "name", "eth0")
        _ip("link", "set", self._port, "master", network.bridge, "up")
        _ip("-n", self._space, "link", "set", "lo", "up")
        _ip("-n", self._space, "link", "set", "eth0", "up")
        _ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        self.boot()

    def boot(self) -> None:
        """Give it power: nothing runs yet."""
        words = ["ip", "netns", "exec", self._space, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child"]
        words += ["--mount-proc", "sh", "-c", INIT, self.name, str(self.folder)]
        (self.folder / "hosts").write_text((self.folder.parent / "hosts").read_text())
        with open(self.folder / "log", "ab") as log:
            command = [sys.executable, "-c", WITH_PARENT, *words]
            self._power = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert self._power.stdout is not None
        assert self._power.stdout.readline() == b"up\n", f"{self.name} did not come up"
        (self._first,) = psutil.Process(self._power.pid).children()

    def kill(self) -> None:
        """Take its power: all its processes end at once, in the midst of whatever they do."""
        with suppress(psutil.NoSuchProcess):
            self._first.kill()
        self._power.wait(30)

    def cut(self) -> None:
        """Pull the cable: nobody is told, frames go nowhere."""
        _ip("link", "set", self._port, "down")

    def join(self) -> None:
        """Put the cable back."""
        _ip("link", "set", self._port, "up")

    def slow_down(self, cores: float) -> None:
        """From now on all that runs in it, and what that starts, has this share of a core, or so many."""
        self._group.mkdir(exist_ok=True)
        share = int(cores * PERIOD_US)
        if (self._group / "cpu.max").exists():
            (self._group / "cpu.max").write_text(f"{share} {PERIOD_US}")
        else:
            (self._group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self._group / "cpu.cfs_quota_us").write_text(str(share))
        seen = set[str]()
        while left := set(_ip("netns", "pids", self._space).stdout.split()) - seen:  # others start meanwhile
            for pid in left:
                with suppress(ProcessLookupError):
                    (self._group / "cgroup.procs").write_text(pid)
            seen |= left

    def command(self, *words: str | os.PathLike[str]) -> list[str]:
        """A command as this machine runs it to run in the host."""
        inside = ["nsenter", "--target", str(self._first.pid), "--mount", "--uts", "--net", "--pid"]
        return [*inside, "--", *map(os.fspath, words)]

    def run(self, *words: str, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in it and wait for its end."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    def start(self, *words: str | os.PathLike[str], env: Mapping[str, str], **options: Any) -> Process:
        """Start a command in it, which ends with it at the latest; what it says goes to the host's ``log``."""
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(self.command(*words), env=env, stderr=log, **({"stdout": log} | options))

    def close(self) -> None:
        """Take it down for good."""
        self.kill()
        if self._relay is not None:
            self._relay.kill()
            self._relay.wait()
        _ip("netns", "del", self._space)
        if self._group.exists():
            self._group.rmdir()
        deadline = time.monotonic() + 10  # the kernel clears a namespace when it finds the time
        while _ip("link", "del", self._port, check=False).returncode == 0 and time.monotonic() < deadline:
            pass


class Network:
    """The switch, and the hosts at it: ``with Network(folder) as network``."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        sweep()
        self.folder, self.bridge = folder, f"rayclf{os.getpid()}"
        net = f"198.18.{os.getpid() % 256}"  # of the addresses for tests of networks (RFC 2544)
        self.addresses = [f"{net}.{number + 1}" for number in range(len(names))]
        self.gateway, self._names, self._hosts = f"{net}.254", names, dict[str, Host]()
        folder.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{a} {n}" for a, n in zip(self.addresses, names, strict=True))]
        (folder / "hosts").write_text("\n".join(lines) + "\n")
        _ip("link", "add", self.bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", self.bridge)
        _ip("link", "set", self.bridge, "up")

    def host(self, name: str, link: Link | None = None) -> Host:
        """Set up one of the hosts that were named, at a good cable or at a bad one."""
        self._hosts[name] = Host(self, name, self._names.index(name), link)
        return self._hosts[name]

    def remove(self, host: Host) -> None:
        """Take a host away; another of its name may come."""
        del self._hosts[host.name]
        host.close()
        shutil.rmtree(host.folder, ignore_errors=True)

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts.values():
            host.close()
        _ip("link", "del", self.bridge)
