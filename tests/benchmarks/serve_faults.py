"""What the endpoint does under abuse and faults: nothing wrong, nothing lost, nothing that stays.

    python tests/benchmarks/serve_faults.py abuse ARTIFACT [--bodies 1000000] [--keys 10000] [--slow 50]
    python tests/benchmarks/serve_faults.py kills ARTIFACT ROWS [--requests 10000] [--rate 40] [--every 5]

``abuse`` starts ``rayclf serve`` with one API key, and sends it mutated bodies of every protocol (those of
tests/mutations.py), wrong keys, bodies of 100 MB with and without their size, and clients that send one byte a second,
while a client asks for its health and for an answer every second. It fails when one gets a 500, when a wrong key gets
anything but a 401, when health is not green or the answer is another, or when the proxy and the replica together have
grown by more than ``--growth`` MiB from the end of the first tenth of the bodies to the end.

``kills`` sends single texts at a steady rate while the replica's process is killed every ``--every`` seconds, and the
proxy's once, half-way. Without retries each request must end within its deadline, in the right answer or in a 503 that
says when to try again (a connection that breaks with the proxy counts as such a refusal); with ``rayclf.Client`` and
its retries each must be answered.
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
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutations import mutate
from serve import OURS, Server, request_bytes, servers

KEY = secrets.token_hex(16)
MIB = 2**20
GOOD = {"inputs": ["Oil prices rose again after the strike."]}
DEADLINE_S = 90.0  # longer than the server's own, which is 60


# --- a connection ---------------------------------------------------------------------------------------------------


class Wire:
    """One connection, made again whenever it has ended."""

    def __init__(self, port: int) -> None:
        self.port, self.streams = port, None

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the server ended the connection without one."""
        for _ in range(2):  # the server may have closed an idle connection in the meantime
            fresh = self.streams is None
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            try:
                writer.write(request)
                await writer.drain()
            except ConnectionError:
                pass  # an answer may be there all the same
            try:
                return await self.read(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if fresh:
                    break
        return 0, b""

    async def read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """One answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:  # what Serve's proxy says itself
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        else:
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(size)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """End it."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


def signed(path: str, body: object, key: str = KEY) -> bytes:
    """A request with a key."""
    return request_bytes(path, body, f"X-API-Key: {key}\r\n")


def raw(path: str, content: bytes) -> bytes:
    """A request whose body may be anything."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-API-Key: {KEY}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


# --- abuse ----------------------------------------------------------------------------------------------------------


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
            if status not in (200, 503) or (status == 200 and body != first):
                self.faults.append(f"a good request got {status}: {body[:200]!r}")
            self.slowest = max(self.slowest, time.perf_counter() - began)
            await asyncio.sleep(1)

    async def many(self, what: str, count: int, make: Callable[[], bytes], right: Callable[[int], bool]) -> None:
        """``count`` requests over 16 connections."""
        left = iter(range(count))

        async def client() -> None:
            wire = Wire(self.server.port)
            for _ in left:
                request = make()
                status, body = await wire.send(request)
                self.seen[f"{what} {status}"] += 1
                if not right(status):
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
        """MiB of the proxy and the replica."""
        found = psutil.Process(self.server.process.pid).children(recursive=True)
        kinds = ("ray::ProxyActor", "ray::ServeReplica")
        return sum(p.memory_info().rss for p in found if " ".join(p.cmdline()).startswith(kinds)) / MIB

    async def run(self, args: argparse.Namespace) -> None:
        """Everything, one after the other."""
        chance = random.Random(args.seed)
        watching = asyncio.create_task(self.watch())

        def body() -> bytes:
            return raw(*mutate(chance))

        def fine(status: int) -> bool:
            return 200 <= status < 500 or status == 503

        await self.many("body", args.bodies // 10, body, fine)
        before = self.memory()
        for number in range(1, 10):
            await self.many("body", args.bodies // 10, body, fine)
            print(f"{(number + 1) * args.bodies // 10} bodies: {self.memory() - before:+.0f} MiB", flush=True)
        await self.many("key", args.keys, lambda: signed("/v1/classify", GOOD, secrets.token_hex(16)), (401).__eq__)
        print(f"wrong keys: {self.memory() - before:+.0f} MiB", flush=True)
        for told in (True, False) * args.large:
            await self.large(told)
        print(f"large bodies: {self.memory() - before:+.0f} MiB", flush=True)
        await asyncio.gather(*(self.slow() for _ in range(args.slow)))
        watching.cancel()
        await asyncio.wait([watching])
        if watching.done() and not watching.cancelled() and watching.exception():
            self.faults.append(f"the watcher: {watching.exception()!r}")
        grown = self.memory() - before
        print(
            dict(sorted(self.seen.items())), f"memory {before:.0f} MiB {grown:+.0f}; slowest watch {self.slowest:.1f} s"
        )
        if grown > args.growth:
            self.faults.append(f"memory grew by {grown:.0f} MiB")


def abuse(args: argparse.Namespace) -> list[str]:
    """Start the server, abuse it, and give what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        server = started(args.artifact, folder, args.core)
        try:
            found = Abuse(server)
            asyncio.run(found.run(args))
        finally:
            server.stop()
    return found.faults


def started(artifact: str, folder: str, core: int) -> Server:
    """``rayclf serve`` with one key."""
    server = next(one for one in servers(artifact, Path(folder), None, ()) if one.name == OURS)
    server.environment, server.headers = {"RAYCLF_API_KEY": KEY}, {"X-API-Key": KEY}
    server.start(core, Path(folder) / "log")
    server.wait()
    return server


# --- kills ----------------------------------------------------------------------------------------------------------


class Kills:
    """Steady load on a server whose processes die."""

    def __init__(self, server: Server, texts: Sequence[str]) -> None:
        self.server, self.texts = server, texts
        self.right = {text: server.ask(text) for text in texts}
        self.seen, self.faults = Counter[str](), list[str]()

    def kill(self, kind: str) -> None:
        """End the processes of one kind, as a crash would."""
        for process in psutil.Process(self.server.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(kind):
                    process.kill()
                    self.seen[f"kills of {kind}"] += 1
            except psutil.NoSuchProcess:
                pass

    def check(self, text: str, found: dict[str, float]) -> None:
        """Compare an answer with that of the healthy server."""
        far = max(abs(found[name] - value) for name, value in self.right[text].items())
        self.seen["answered"] += 1
        if far > 1e-4:
            self.faults.append(f"a wrong answer, off by {far}")

    async def plain(self, text: str) -> None:
        """One request without retries."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                status, body = await Wire(self.server.port).send(signed("/v1/classify", {"inputs": [text]}))
        except TimeoutError:
            self.faults.append("a request without an end")
        except ConnectionError:
            self.seen["refused: no connection"] += 1
        else:
            if status == 200:
                self.check(text, json.loads(body)["results"][0]["probabilities"])
            elif status in (0, 503):
                self.seen[f"refused: {status}"] += 1
            else:
                self.faults.append(f"{status}: {body[:300]!r}")

    async def run(self, args: argparse.Namespace) -> None:
        """Requests at a rate, and kills: first without retries, then with the client's."""
        import rayclf

        url = f"http://127.0.0.1:{self.server.port}"
        for retries in (False, True):
            self.seen.clear()
            async with rayclf.AsyncClient(url, api_key=KEY, timeout=DEADLINE_S) as client:

                async def patient(text: str, client: rayclf.AsyncClient = client) -> None:
                    try:
                        self.check(text, (await client.classify([text]))[0].probabilities)
                    except Exception as error:
                        self.faults.append(f"with retries: {error!r}")

                killing = asyncio.create_task(self.killer(args.requests / args.rate, args.every))
                one, running = patient if retries else self.plain, []
                began = time.monotonic()
                for number in range(args.requests):
                    running.append(asyncio.create_task(one(self.texts[number % len(self.texts)])))
                    await asyncio.sleep(max(0.0, began + number / args.rate - time.monotonic()))
                await asyncio.gather(*running)
                killing.cancel()
            print("with retries:" if retries else "without:", dict(self.seen), f"{len(self.faults)} faults", flush=True)

    async def killer(self, seconds: float, every: float) -> None:
        """Replicas now and then, and the proxy once."""
        end, proxy = time.monotonic() + seconds, time.monotonic() + seconds / 2
        while time.monotonic() < end:
            await asyncio.sleep(every)
            self.kill("ray::ServeReplica")
            if time.monotonic() > proxy:
                self.kill("ray::ProxyActor")
                proxy = end


def kills(args: argparse.Namespace) -> list[str]:
    """Start the server, kill its parts under load, and give what was wrong."""
    from rayclf.data.formats import read_table

    with tempfile.TemporaryDirectory() as folder:
        server = started(args.artifact, folder, args.core)
        try:
            found = Kills(server, read_table(args.rows_file)[args.text].to_pylist()[:50])
            asyncio.run(found.run(args))
        finally:
            server.stop()
    return found.faults


def main() -> None:
    """Run one of them; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("abuse")
    command.add_argument("artifact")
    command.add_argument("--bodies", type=int, default=1_000_000)
    command.add_argument("--keys", type=int, default=10_000)
    command.add_argument("--large", type=int, default=5, help="bodies of 100 MB of each kind")
    command.add_argument("--slow", type=int, default=50, help="clients that send a byte a second")
    command.add_argument("--growth", type=float, default=32, help="MiB that are let be")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=abuse)
    command = commands.add_parser("kills")
    command.add_argument("artifact")
    command.add_argument("rows_file")
    command.add_argument("--requests", type=int, default=10_000)
    command.add_argument("--rate", type=float, default=40, help="requests a second")
    command.add_argument("--every", type=float, default=5, help="seconds between two kills")
    command.add_argument("--text", default="text")
    command.set_defaults(run=kills)
    for command in commands.choices.values():
        command.add_argument("--core", type=int, default=0)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    faults = args.run(args)
    for fault in faults[:20]:
        print(fault)
    print(f"{len(faults)} faults")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
