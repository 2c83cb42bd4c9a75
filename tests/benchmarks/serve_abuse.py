"""What the endpoint does under abuse: no error of its own, no memory that stays, and others are answered all the while.

    python tests/benchmarks/serve_abuse.py ARTIFACT [--bodies 1000000] [--keys 10000] [--slow 50]

``rayclf serve`` with one API key gets mutated bodies of every protocol (those of tests/mutations.py), wrong keys,
bodies of 100 MB with and without their size, and clients that send one byte a second, while a client asks for its
health and for an answer every second. It fails when one gets a 500, when a wrong key gets anything but a 401, when
health is not green, when a probability is another by more than 1e-5, or when the proxy and the replica together have
grown by more than ``--growth`` MiB from the end of the first tenth of the bodies to the last wrong key. Of large bodies
glibc keeps the pages of one or two for a while; so there the least after the second half of them is held against the
most after the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutations import mutate
from serve import OURS, Server, servers
from wire import KEY, Wire, raw, signed

MIB = 2**20
GOOD = {"inputs": ["Oil prices rose again after the strike."]}


def is_busy(status: int, body: bytes) -> bool:
    """Whether a server says that it has too much to do, and not that something is wrong with it."""
    return status == 503 and b'"code": "overloaded"' in body


def agree(body: bytes, other: bytes) -> bool:
    """Whether two answers have the same probabilities; what is computed beside a text may change their last digit."""
    first, second = (json.loads(answer)["results"][0]["probabilities"] for answer in (body, other))
    return bool(first.keys() == second.keys() and all(abs(first[name] - second[name]) < 1e-5 for name in first))


class Abuse:
    """One server, what it answered, and what it should not have."""

    def __init__(self, server: Server) -> None:
        self.server, self.seen, self.faults = server, Counter[str](), list[str]()
        self.slowest = 0.0

    async def watch(self) -> None:
        """Ask for health and for an answer, every second, for as long as the abuse lasts."""
        health, answers = Wire(self.server.port), Wire(self.server.port)
        first = None
        while True:
            began = time.perf_counter()
            status, _ = await health.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if status != 200:
                self.faults.append(f"health is {status}")
            status, body = await answers.send(signed("/v1/classify", GOOD))
            first = first or body
            if not is_busy(status, body) and not (status == 200 and agree(body, first)):
                self.faults.append(f"a good request got {status}: {body[:200]!r}")
            self.slowest = max(self.slowest, time.perf_counter() - began)
            await asyncio.sleep(1)

    async def many(self, what: str, count: int, make: Callable[[], bytes], right: Callable[[int, bytes], bool]) -> None:
        """``count`` requests over 16 connections."""
        left = iter(range(count))

        async def client() -> None:
            wire = Wire(self.server.port)
            for _ in left:
                request = make()
                status, body = await wire.send(request)
                self.seen[f"{what} {status}"] += 1
                if not right(status, body):
                    self.faults.append(f"{what}: {status} {body[:200]!r} for {request[:600]!r}")
            wire.close()

        await asyncio.gather(*(client() for _ in range(16)))

    async def large(self, told: bool) -> None:
        """100 MB, with or without saying so; it must be refused, by an answer or an end of the connection."""
        chunk = b"a" * MIB
        size = f"Content-Length: {100 * MIB}" if told else "Transfer-Encoding: chunked"
        head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: {KEY}\r\n{size}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(f"{head}\r\n\r\n".encode())
        try:
            for _ in range(100):
                writer.write(chunk if told else b"%x\r\n%s\r\n" % (len(chunk), chunk))
                await writer.drain()
            status, _ = await Wire(self.server.port).read(reader)
        except (ConnectionError, asyncio.IncompleteReadError):
            status = 0
        writer.close()
        self.seen[f"100 MB {'told' if told else 'chunked'} {status}"] += 1
        if status not in (0, 413):
            self.faults.append(f"100 MB: {status}")

    async def slow(self) -> None:
        """One byte a second until the server has enough."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(raw("/v1/classify", b"")[:-4].replace(b"Content-Length: 0", b"Content-Length: 5000") + b"\r\n\r\n")
        answer = asyncio.ensure_future(Wire(self.server.port).read(reader))
        try:
            for _ in range(120):
                writer.write(b" ")
                await asyncio.wait([answer], timeout=1)
                if answer.done():
                    break
            status, _ = answer.result() if answer.done() else (-1, b"")
        except (ConnectionError, asyncio.IncompleteReadError):
            status = 0
        writer.close()
        answer.cancel()
        self.seen[f"slow {status}"] += 1
        if status not in (0, 408):
            self.faults.append(f"a slow client: {status}")

    def memory(self) -> float:
        """MiB of the proxy and the replica that no other process shares: large bodies also go through Ray's object
        store, whose size is fixed at its start."""
        found = psutil.Process(self.server.process.pid).children(recursive=True)
        kinds = ("ray::ProxyActor", "ray::ServeReplica")
        return sum(p.memory_full_info().uss for p in found if " ".join(p.cmdline()).startswith(kinds)) / MIB

    async def run(self, args: argparse.Namespace) -> None:
        """Everything, one after the other."""
        chance = random.Random(args.seed)
        watching = asyncio.create_task(self.watch())

        def body() -> bytes:
            return raw(*mutate(chance))

        def fine(status: int, body: bytes) -> bool:
            return 200 <= status < 500 or is_busy(status, body)

        def unauthorized(status: int, _: bytes) -> bool:
            return status == 401

        await self.many("body", args.bodies // 10, body, fine)
        before = self.memory()
        for number in range(1, 10):
            await self.many("body", args.bodies // 10, body, fine)
            print(f"{(number + 1) * args.bodies // 10} bodies: {self.memory() - before:+.0f} MiB", flush=True)
        await self.many("key", args.keys, lambda: signed("/v1/classify", GOOD, secrets.token_hex(16)), unauthorized)
        self.grown("bodies and keys", self.memory() - before, args.growth)
        looks = []
        for told in (True, False) * args.large:
            await self.large(told)
            await asyncio.sleep(0.5)
            looks.append(self.memory())
        half = len(looks) // 2
        print(f"large bodies: at most {max(looks) - before:+.0f} MiB", flush=True)
        self.grown("large bodies", min(looks[half:]) - max(looks[:half]), args.growth)
        await asyncio.gather(*(self.slow() for _ in range(args.slow)))
        watching.cancel()
        await asyncio.wait([watching])
        if watching.done() and not watching.cancelled() and watching.exception():
            self.faults.append(f"the watcher: {watching.exception()!r}")
        print(
            dict(sorted(self.seen.items())),
            f"memory {before:.0f} MiB, in the end {self.memory() - before:+.0f}; slowest watch {self.slowest:.1f} s",
        )

    def grown(self, what: str, mib: float, most: float) -> None:
        """Tell by how much memory has grown, which is a fault above ``most``."""
        print(f"{what}: {mib:+.0f} MiB", flush=True)
        if mib > most:
            self.faults.append(f"{what}: memory grew by {mib:.0f} MiB")


def main() -> None:
    """Start the server and abuse it; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=20, help="bodies of 100 MB of each kind")
    parser.add_argument("--slow", type=int, default=50, help="clients that send a byte a second")
    parser.add_argument("--growth", type=float, default=32, help="MiB that are let be")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="those of the server")
    parser.add_argument("--load-core", type=int, help="the core of the load, where it is to be another")
    args = parser.parse_args()
    os.sched_setaffinity(0, set(args.cores) if args.load_core is None else {args.load_core})
    with tempfile.TemporaryDirectory() as folder:
        server = next(one for one in servers(args.artifact, Path(folder), None, ()) if one.name == OURS)
        server.environment, server.headers = {"RAYCLF_API_KEY": KEY}, {"X-API-Key": KEY}
        server.start(args.cores, Path(folder) / "log")
        try:
            server.wait()
            found = Abuse(server)
            asyncio.run(found.run(args))
        finally:
            server.stop()
    for fault, times in Counter(found.faults).most_common(20):
        print(f"{times} x {fault}")
    print(f"{len(found.faults)} faults")
    raise SystemExit(bool(found.faults))


if __name__ == "__main__":
    main()
