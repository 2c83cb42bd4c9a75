"""The endpoint against its peers under load: the same exported model, texts and cores, by turns.

    python tests/benchmarks/serve.py ARTIFACT ROWS [--infinity FILE] [--clients 1 8 64] [--rounds 3] [--seconds 6]
                                      [--cores 0 1]

ROWS is a file of texts; FILE is the ``infinity_emb`` of an environment with ``infinity-emb[server,torch]``. Peers are
Infinity, and the server that most people write first: FastAPI around ``transformers.pipeline``. Every server runs as
its own documentation starts it, on one core with one thread, or on several ``--cores`` with as many as it takes by
itself; the load comes from this process, over loopback, on the same cores (another with ``--load-core``). Each client
keeps its connection and sends its next text, one a request, when it has its answer. A round is one turn of each server
for each number of clients; told are medians over the rounds: of requests a second by the clock, of requests a second
of the server's processor time (all of its processes; other programs disturb it less), of the 50th and 99th percentile
of latency, and of the ratios of ours to a peer within a round. Answers are compared: each peer's probabilities with
ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

OURS, INFINITY, PLAIN = "rayclf", "Infinity", "FastAPI + pipeline"


# --- load -----------------------------------------------------------------------------------------------------------


def request_bytes(path: str, body: Any, headers: str = "") -> bytes:
    """A POST of JSON as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


class Client(asyncio.Protocol):
    """One connection that asks again when it has its answer: far cheaper than a server, so never the bottleneck."""

    def __init__(self, requests: Callable[[], bytes | None], seen: Callable[[int, float], None]) -> None:
        self.requests, self.seen = requests, seen
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.buffer, self.began = bytearray(), 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the next request, or end when there is none."""
        request = self.requests()
        if request is None:
            self.transport.close()
            self.done.done() or self.done.set_result(None)
            return
        self.began = time.perf_counter()
        self.transport.write(request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self.buffer[:end]).lower()
        size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.buffer) < end + 4 + size:
            return
        self.seen(int(head[9:12]), time.perf_counter() - self.began)
        self.buffer.clear()
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.done.done() or self.done.set_exception(error or ConnectionResetError("the server closed"))


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> list[float]:
    """Latencies of the requests that ``clients`` made in ``seconds``; raises for an answer other than 200."""
    latencies: list[float] = []
    end, number = time.perf_counter() + seconds, 0

    def ask() -> bytes | None:
        nonlocal number
        number += 1
        return None if time.perf_counter() > end else requests[number % len(requests)]

    def see(status: int, latency: float) -> None:
        if status != 200:
            raise RuntimeError(f"status {status}")
        latencies.append(latency)

    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Client(ask, see), "127.0.0.1", port) for _ in range(clients)]
    await asyncio.gather(*(client.done for _, client in made))
    return latencies


# --- servers --------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server in processes of its own, and how it is asked."""

    name: str
    command: list[str]
    path: str
    body: Callable[[str], Any]
    read: Callable[[Any], dict[str, float]]
    environment: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    port: int = 0

    def start(self, cores: Sequence[int], log: Path) -> None:
        """Start it on some cores, with as many threads as it takes, which is one on one of them; ``log`` takes what it
        says."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [part.replace("PORT", str(self.port)) for part in self.command]
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
        one = {"HF_HUB_OFFLINE": "1"}
        if len(cores) == 1:
            one |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            command, stdout=log.open("wb"), stderr=subprocess.STDOUT, env=os.environ | one | self.environment
        )
        self.log = log

    def wait(self, seconds: float = 900) -> None:
        """Return when it answers; ends the benchmark when it does not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                self.ask("ready")
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.5)
            else:
                return
        raise SystemExit(f"{self.name} did not start:\n{self.log.read_text()[-2000:]}")

    def ask(self, text: str) -> dict[str, float]:
        """The probabilities of one text by label."""
        url, body = f"http://127.0.0.1:{self.port}{self.path}", json.dumps(self.body(text)).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json", **self.headers})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return self.read(json.load(answer))

    def spent(self) -> float:
        """Processor seconds of all its processes so far."""
        parent = psutil.Process(self.process.pid)
        total = 0.0
        for process in [parent, *parent.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def stop(self) -> None:
        """End it and its processes."""
        if self.process.poll() is not None:
            return
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for child in children:
            if child.is_running():
                child.kill()


def pairs(found: list[dict[str, Any]]) -> dict[str, float]:
    """A list of labels and scores as a mapping."""
    return {one["label"]: one["score"] for one in found}


def servers(artifact: str, exported: Path, infinity: str | None, extra: Sequence[str]) -> list[Server]:
    """Ours and the peers."""
    rayclf = str(Path(sys.executable).with_name("rayclf"))
    found = [
        Server(
            OURS, [rayclf, "serve", artifact, "--port", "PORT", *extra], "/v1/classify",
            lambda text: {"inputs": [text]}, lambda answer: answer["results"][0]["probabilities"],
        ),
        Server(
            PLAIN, [sys.executable, __file__, "plain", str(exported), "PORT"], "/classify",
            lambda text: {"inputs": [text]}, lambda answer: pairs(answer[0]),
        ),
    ]  # fmt: skip
    if infinity:
        command = [infinity, "v2", "--model-id", str(exported), "--served-model-name", "model", "--device", "cpu"]
        found.append(Server(
            INFINITY, [*command, "--port", "PORT"], "/classify",
            lambda text: {"model": "model", "input": [text]}, lambda answer: pairs(answer["data"][0]),
            {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"},
        ))  # fmt: skip
    return found


def serve_plain(model: str, port: int) -> None:
    """The server that most people write first."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from transformers import pipeline

    classify = pipeline("text-classification", model, top_k=None, device="cpu")
    app = FastAPI()

    class Request(BaseModel):
        inputs: list[str]

    def answer(request: Request) -> list[list[dict[str, Any]]]:
        return classify(request.inputs, truncation=True)

    answer.__annotations__["request"] = Request  # it is local, and annotations here are text
    app.post("/classify")(answer)
    uvicorn.run(app, port=port, log_level="warning")


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass
class Turn:
    """What one server did in one turn."""

    rate: float
    per_cpu: float
    p50: float
    p99: float


def take_turn(server: Server, texts: Sequence[str], clients: int, seconds: float) -> Turn:
    """Load one server."""
    requests = [request_bytes(server.path, server.body(text)) for text in texts]
    asyncio.run(load(server.port, requests, clients, seconds / 4))  # connections, caches, batch sizes
    cpu, began = server.spent(), time.perf_counter()
    found = asyncio.run(load(server.port, requests, clients, seconds))
    wall, cpu = time.perf_counter() - began, server.spent() - cpu
    p50, p99 = np.percentile(found, [50, 99])
    return Turn(len(found) / wall, len(found) / cpu, 1000 * p50, 1000 * p99)


def tell(turns: dict[tuple[str, int], list[Turn]]) -> None:
    """Print medians, and the ratios of ours to each peer."""
    for (name, clients), found in turns.items():
        rate, per_cpu, p50, p99 = (median(getattr(one, what) for one in found) for what in Turn.__annotations__)
        line = f"{name:20} {clients:3} clients: {rate:6.1f} requests/s, {per_cpu:6.1f} a processor second, "
        line += f"p50 {p50:7.1f} ms, p99 {p99:7.1f} ms"
        ours = turns.get((OURS, clients), [])
        if name != OURS and ours:
            ratios = [
                median(getattr(mine, what) / getattr(one, what) for mine, one in zip(ours, found, strict=False))
                for what in Turn.__annotations__
            ]
            line += "; ours is {:.2f} x the rate, {:.2f} x by processor, {:.2f} x p50, {:.2f} x p99".format(*ratios)
        print(line, flush=True)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("rows_file")
    parser.add_argument("--infinity", help="the infinity_emb of its environment")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of a turn")
    parser.add_argument("--cores", type=int, nargs="+", default=[0], help="of the servers")
    parser.add_argument("--load-core", type=int, help="the core of the load, where it is to be another")
    parser.add_argument("--only", nargs="+", choices=(OURS, INFINITY, PLAIN), help="servers to run")
    parser.add_argument("--text", default="text")
    parser.add_argument("--options", default="", help="more options of rayclf serve, in one word")
    args = parser.parse_args()

    import rayclf as library
    from rayclf.data.formats import read_table

    os.sched_setaffinity(0, set(args.cores) if args.load_core is None else {args.load_core})
    texts = read_table(args.rows_file)[args.text].to_pylist()
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:4096]]
    with tempfile.TemporaryDirectory() as folder:
        exported = library.export(args.artifact, Path(folder) / "exported")
        running = servers(args.artifact, exported, args.infinity, args.options.split())
        running = [server for server in running if args.only is None or server.name in args.only]
        turns: dict[tuple[str, int], list[Turn]] = {(s.name, n): [] for n in args.clients for s in running}
        try:
            for server in running:
                server.start(args.cores, Path(folder) / f"{server.name}.log")
                server.wait()
            answers = [[server.ask(text) for text in texts[:20]] for server in running]
            for server, found in zip(running[1:], answers[1:], strict=True):
                far = max(abs(x[k] - y[k]) for x, y in zip(answers[0], found, strict=True) for k in x)
                print(f"{server.name}: probabilities within {far:.1e} of {running[0].name}'s", flush=True)
            for number in range(args.rounds):
                for clients in args.clients:
                    for server in running:
                        turn = take_turn(server, texts, clients, args.seconds)
                        turns[server.name, clients].append(turn)
                        print(f"round {number + 1}, {clients} clients, {server.name}: {turn}", file=sys.stderr)
            tell(turns)
        finally:
            for server in running:
                if hasattr(server, "process"):
                    server.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["plain"]:
        serve_plain(sys.argv[2], int(sys.argv[3]))
    else:
        main()
