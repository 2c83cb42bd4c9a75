"""Hosts in namespaces: they lose power and contact and come back, and a bad cable is one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hosts import Host, Link, Network, unavailable

SERVER = """import hashlib, socket
with socket.create_server(("0.0.0.0", 9000)) as door:
    print("up", flush=True)
    with door.accept()[0] as client, client.makefile("rb") as file:
        print(hashlib.sha256(file.read()).hexdigest())
"""
pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


def reachable(host: Host) -> bool:
    """Whether a host answers within a second, be it with a refusal."""
    try:
        socket.create_connection((host.address, 9), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def comes_back(host: Host) -> bool:
    """Whether a host answers before long: Linux tells of a cable at most once a second, a SYN that was lost waits."""
    deadline = time.monotonic() + 30
    while not (answered := reachable(host)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answered


def transfer(host: Host, content: bytes) -> tuple[str, float]:
    """The hash of what a host has got, and the seconds that it took."""
    server = host.start(sys.executable, "-c", SERVER, env=os.environ, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"up\n"
    began = time.monotonic()
    with socket.create_connection((host.address, 9000)) as client:
        client.sendall(content)
    told, _ = server.communicate(timeout=60)
    return told.decode().strip(), time.monotonic() - began


def test_hosts_lose_power_and_contact_and_come_back(tmp_path: Path) -> None:
    with Network(tmp_path, ("one", "two")) as network:
        one, two = network.host("one"), network.host("two", Link(delay_s=0.05, loss=0.01))
        told = one.run("sh", "-c", "hostname; getent hosts two; echo mine > /tmp/ray/file; ps ax | wc -l")
        assert told.stdout.split()[:3] == ["one", two.address, "two"], told.stderr
        assert int(told.stdout.split()[3]) < 10  # none of this machine's processes
        assert two.run("ls", "/tmp/ray").stdout == ""

        content = os.urandom(500_000)
        (fast, _), (slow, seconds) = transfer(one, content), transfer(two, content)
        assert fast == slow
        assert seconds > 0.2  # two round trips at the least, however fast the machine is

        one.cut()
        assert not reachable(one)
        one.join()
        assert comes_back(one)
        process = one.start("sleep", "1000", env=os.environ)
        one.kill()
        process.wait(10)
        one.boot()
        assert comes_back(one)
        assert "sleep 1000" in one.run("ps", "ax").stdout  # of its first process
        assert one.run("ls", "/tmp/ray").stdout == "file\n"
    assert "rayclf" not in subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


def test_a_slow_host_shares_its_part_of_a_core_out_to_all_that_runs_in_it(tmp_path: Path) -> None:
    with Network(tmp_path, ("one",)) as network:
        one = network.host("one")
        running = one.start("sleep", "60", env=os.environ)
        try:
            one.slow_down(0.25)
        except OSError as error:
            pytest.skip(f"groups of processes cannot be made here: {error}")
        held = set((one._group / "cgroup.procs").read_text().split())
        assert held >= set(subprocess.check_output(["ip", "netns", "pids", one._space], text=True).split())
        names = [name for name in ("cpu.max", "cpu.cfs_quota_us") if (one._group / name).exists()]
        assert (one._group / names[0]).read_text().split()[0] == "5000"  # of 20,000 µs
        group = one._group
    running.wait(30)
    assert not group.exists()
