"""What clients of a deployment notice when its parts die, when it changes its version, and when it sleeps.

    python tests/benchmarks/serve_faults.py kills  ARTIFACT ROWS [--requests 10000] [--rate 40] [--every 5]
    python tests/benchmarks/serve_faults.py update ARTIFACT ROWS --other ARTIFACT [--updates 10] [--rate 20]
    python tests/benchmarks/serve_faults.py wake   ARTIFACT ROWS [--cycles 20]

Each starts a Ray of its own and does there what ``rayclf deploy`` does. ``kills`` sends single texts at a steady rate
to ``--replicas`` replicas behind two ingress processes, and kills the process of one of all these, chosen at random,
every ``--every`` seconds, and once, half-way, the proxy. Without retries each request must end within its deadline, in
the right answer or in a 503 that says when to try again (a connection that breaks with the proxy counts as such a
refusal); with ``rayclf.Client`` and its retries each must be answered.

``update`` deploys two artifacts by turns under such a load; each request, without retries, must get the answer of the
version that it says it is from. ``wake`` asks a deployment with ``--replicas 0,1`` for several answers at once, at
random moments from before it sleeps to well after, without retries; told is how long the answers take where there was
no replica. Exit code 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from statistics import median

import psutil
import ray
from wire import Wire, signed

import rayclf
from rayclf.cluster import connect
from rayclf.data.formats import read_table
from rayclf.demo.lessons import free_port
from rayclf.serving import deployments
from rayclf.serving.deployments import Deployment

NAME = "faults"
DEADLINE_S = 90.0  # longer than the server's own, which is 60
Right = dict[str, dict[str, float]]


class Endpoint:
    """A deployment, what it should answer by version and text, and what was seen of it."""

    def __init__(self, artifact: str, texts: Sequence[str], **options: object) -> None:
        self.port, self.texts, self.right = free_port(), texts, dict[str, Right]()
        self.seen, self.faults = Counter[str](), list[str]()
        self.deploy(artifact, port=self.port, **options)

    def deploy(self, artifact: str, **options: object) -> None:
        """Deploy a version, and tell what is right for it."""
        found = rayclf.Classifier.load(artifact).predict(list(self.texts))
        right = {text: one.probabilities for text, one in zip(self.texts, found, strict=True)}
        number = str(max(map(int, self.right), default=0) + 1)
        self.right[number] = right  # it may answer before this call is over
        deployed = deployments.deploy(NAME, artifact, **options)
        assert str(deployed.versions[0].number) == number

    @property
    def status(self) -> Deployment:
        """What ``rayclf deployments status`` tells."""
        return deployments.status(NAME)

    def check(self, text: str, found: dict[str, float], version: str) -> None:
        """Compare an answer with what is right for its version."""
        far = max(abs(found[name] - value) for name, value in self.right[version][text].items())
        self.seen["answered"] += 1
        if far > 1e-4:
            self.faults.append(f"a wrong answer of version {version}, off by {far}")

    async def ask(self, text: str, refusals: tuple[int, ...] = ()) -> None:
        """One request without retries."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                wire = Wire(self.port)
                status, body = await wire.send(signed(f"/{NAME}/v1/classify", {"inputs": [text]}))
        except TimeoutError:
            self.faults.append("a request without an end")
        except ConnectionError:
            self.refused(0, b"", refusals)
        else:
            if status == 200:
                self.check(text, json.loads(body)["results"][0]["probabilities"], wire.version)
            else:
                self.refused(status, body, refusals)
            wire.close()

    def refused(self, status: int, body: bytes, refusals: tuple[int, ...]) -> None:
        """Count an honest refusal, or a fault."""
        if status in refusals:
            self.seen[f"refused: {status or 'the connection broke'}"] += 1
        else:
            self.faults.append(f"{status}: {body[:300]!r}")

    async def steady(self, count: int | None, rate: float, one: Callable[[str], Awaitable[None]]) -> None:
        """``count`` requests, or until it is cancelled, at a rate; returns when all have ended."""
        running, began, number = set[asyncio.Task[None]](), time.monotonic(), 0
        try:
            while count is None or number < count:
                task = asyncio.ensure_future(one(self.texts[number % len(self.texts)]))
                running.add(task)  # type: ignore[arg-type]
                task.add_done_callback(running.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        except asyncio.CancelledError:
            pass
        await asyncio.gather(*running)

    @asynccontextmanager
    async def under_load(self, rate: float) -> AsyncIterator[None]:
        """Requests at a rate for as long as the block runs, all of which have ended after it."""
        load = asyncio.create_task(self.steady(None, rate, self.ask))
        try:
            yield
        finally:
            load.cancel()
            await load


def kill(*names: str) -> str:
    """End one of the processes whose names begin so, chosen at random, as a crash would; its name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            name = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if name.startswith(names):
            found.append((name, process))
    if not found:
        return "nothing"
    name, process = random.choice(found)
    process.kill()
    return name.split("#")[0].strip()


async def kills(endpoint: Endpoint, args: argparse.Namespace) -> None:
    """Requests at a rate while processes die: first without retries, then with the client's."""

    async def killer() -> None:
        end = time.monotonic() + args.requests / args.rate
        proxy: float | None = time.monotonic() + args.requests / args.rate / 2
        while time.monotonic() < end:
            await asyncio.sleep(args.every)
            endpoint.seen[f"kills of {await asyncio.to_thread(kill, 'ray::ServeReplica')}"] += 1
            if proxy is not None and time.monotonic() > proxy:
                endpoint.seen[f"kills of {await asyncio.to_thread(kill, 'ray::ProxyActor')}"] += 1
                proxy = None

    async def patient(text: str) -> None:
        try:
            found = (await client.classify([text]))[0]
            endpoint.check(text, found.probabilities, "1")
        except Exception as error:
            endpoint.faults.append(f"with retries: {error!r}")

    async def impatient(text: str) -> None:
        await endpoint.ask(text, refusals=(0, 503))

    url = f"http://127.0.0.1:{endpoint.port}/{NAME}"
    async with rayclf.AsyncClient(url, timeout=DEADLINE_S) as client:
        for what, one in (("without retries", impatient), ("with retries", patient)):
            endpoint.seen.clear()
            killing = asyncio.create_task(killer())
            await endpoint.steady(args.requests, args.rate, one)
            killing.cancel()
            print(f"{what}: {dict(endpoint.seen)}, {len(endpoint.faults)} faults", flush=True)


async def update(endpoint: Endpoint, args: argparse.Namespace) -> None:
    """New versions under load."""
    async with endpoint.under_load(args.rate):
        for number in range(args.updates):
            began = time.monotonic()
            await asyncio.to_thread(endpoint.deploy, (args.other, args.artifact)[number % 2])
            print(f"update {number + 1}: {time.monotonic() - began:.0f} s, {dict(endpoint.seen)}", flush=True)


async def wake(endpoint: Endpoint, args: argparse.Namespace) -> None:
    """Requests at once after some time without any, again and again."""
    asleep = list[float]()
    for number in range(args.cycles):
        if number % 2:  # every other time at a moment when it may just be going
            await asyncio.sleep(args.inactive_timeout + random.uniform(0, 8))
        else:
            while (await asyncio.to_thread(lambda: endpoint.status)).versions[0].replicas.get("RUNNING"):
                await asyncio.sleep(1)
            await asyncio.sleep(random.uniform(0, 5))
        there = (await asyncio.to_thread(lambda: endpoint.status)).versions[0].replicas
        began = time.monotonic()
        await endpoint.steady(args.at_once, 1000, endpoint.ask)
        took = time.monotonic() - began
        if not there.get("RUNNING"):
            asleep.append(took)
        print(f"cycle {number + 1}: replicas {there or 'none'}, {args.at_once} answers in {took:.1f} s, "
              f"{len(endpoint.faults)} faults", flush=True)  # fmt: skip
    print(f"{len(asleep)} found none and had their answers after {median(asleep):.1f} s "
          f"({min(asleep):.1f} to {max(asleep):.1f}); {dict(endpoint.seen)}")  # fmt: skip


def main() -> None:
    """Run one of them; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("kills")
    command.add_argument("--requests", type=int, default=10_000)
    command.add_argument("--rate", type=float, default=40, help="requests a second")
    command.add_argument("--every", type=float, default=5, help="seconds between two kills")
    command.add_argument("--replicas", type=int, default=3)
    command.set_defaults(run=kills)
    command = commands.add_parser("update")
    command.add_argument("--other", required=True, help="an artifact that takes turns with the first one")
    command.add_argument("--updates", type=int, default=10)
    command.add_argument("--rate", type=float, default=20)
    command.set_defaults(run=update)
    command = commands.add_parser("wake")
    command.add_argument("--cycles", type=int, default=20)
    command.add_argument("--at-once", type=int, default=5, help="requests at the end of a sleep")
    command.add_argument("--inactive-timeout", type=float, default=5)
    command.set_defaults(run=wake)
    for command in commands.choices.values():
        command.add_argument("artifact")
        command.add_argument("rows_file", metavar="ROWS")
        command.add_argument("--text", default="text")
    args = parser.parse_args()
    texts = read_table(args.rows_file)[args.text].to_pylist()[:50]
    options: dict[str, object] = {}
    if args.run is kills:
        options["replicas"] = (args.replicas, args.replicas)
    elif args.run is wake:
        options |= {"replicas": (0, 1), "inactive_timeout_s": args.inactive_timeout}
    with tempfile.TemporaryDirectory() as home:
        os.environ["RAYCLF_HOME"] = home
        connect()
        endpoint = Endpoint(args.artifact, texts, **options)
        asyncio.run(args.run(endpoint, args))
        ray.shutdown()
    for fault in endpoint.faults[:20]:
        print(fault)
    print(f"{len(endpoint.faults)} faults")
    sys.exit(bool(endpoint.faults))


if __name__ == "__main__":
    main()
