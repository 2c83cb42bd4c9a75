"""What more machines bring: one, two and four of them, each a fraction of a core, at lines of a data centre.

    python tests/benchmarks/scaling.py [--only training] [--cores 0.25] [--delay 0.0005] [--batch-size 512]

Builds hosts of network namespaces on this machine, so root on Linux only, as tests/network does: a Ray head, workers
and an S3 server. The workers have a share of a core each, by the kernel's scheduler, so that four of them and the rest
fit on two cores, and every frame of theirs takes ``--delay`` seconds each way. The same corpus is scored with one
replica on each of 1, 2 and 4 workers, and the same classifier trained with the same global batch on 1 and 2, all sent
by ``ray job submit``. Told is the rate and the efficiency: the rate to so many times that of one worker. Loading and
Ray's start are not counted: for scoring from the first unit's begin to the last one's end, for training the median time
from one step of an epoch to the next.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "network"))

from hosts import Link, unavailable
from lab import Lab
from ray_hosts import Cluster
from tiny import write_backbone
from work import Size, Work, train

NODES = ("worker-1", "worker-2", "worker-3", "worker-4")


def score_rate(work: Work, cluster: Cluster, workers: int, number: int) -> float:
    """Rows a second, as the job's summary has it."""
    output = f"scored-{workers}-{number}"
    cluster.do("score", work.scoring(output, [workers, workers]), seconds=1200)
    path = work.place(f"{output}/_manifest/summary.json").removeprefix("s3://")
    with work.lab.s3.filesystem().open_input_stream(path) as file:
        told = json.loads(file.read())
    assert told["rows"] == work.size.corpus
    return float(told["rows_per_second"])


def train_rate(work: Work, cluster: Cluster, workers: int, number: int, batch_size: int) -> float:
    """Steps a second within an epoch; each takes the same rows, however many workers share them."""
    settings = work.training(workers)
    settings["config"]["train"] |= {
        "batch_size": batch_size,
        "micro_batch_tokens": 2048,
        "checkpoint_steps": None,
    }
    run = train(cluster, settings)
    steps = [event for event in run.events if event["kind"] == "step"]
    gaps = [after["time"] - before["time"] for before, after in pairwise(steps) if before["epoch"] == after["epoch"]]
    return 1 / statistics.median(gaps)


def measure(args: argparse.Namespace, work: Work, what: str, rate: Callable[..., float], counts: list[int]) -> None:
    """A cluster for each number of workers, and its rates."""
    one = 0.0
    for workers in counts:
        nodes = NODES[:workers]
        with Cluster(work.lab, nodes, links=dict.fromkeys(nodes, Link(args.delay, 0.0))) as cluster:
            for node in nodes:
                cluster.host(node).slow_down(args.cores)
            rates = [rate(work, cluster, workers, number) for number in range(args.rounds)]
        middle = statistics.median(rates)
        one = one or middle
        told = ", ".join(f"{found:.3g}" for found in rates)
        print(f"{what} on {workers}: {told} a second, efficiency {middle / (workers * one):.2f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("scoring", "training"))
    parser.add_argument("--cores", type=float, default=0.25, help="of a core, for each worker")
    parser.add_argument("--delay", type=float, default=0.0005, help="seconds, of a frame in each direction")
    parser.add_argument("--rows", type=int, default=30_000, help="of the corpus")
    parser.add_argument("--batch-size", type=int, default=512, help="rows of a training step, of all workers together")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    if why := unavailable():
        sys.exit(why)
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder, Lab(Path(folder)) as lab:
        work = Work(lab, Size(labelled=2560, epochs=3, corpus=args.rows))
        work.backbone = write_backbone(lab.folder / "backbone", "bert", hidden_size=128, intermediate_size=512)
        work.lay_out()
        with Cluster(lab) as cluster:
            work.prepare(cluster)
            work.publish(train(cluster, work.training(1)))
        if args.only != "training":
            measure(args, work, "scoring, rows", score_rate, [1, 2, 4])
        if args.only != "scoring":
            rate = partial(train_rate, batch_size=args.batch_size)
            measure(args, work, "training, steps", rate, [1, 2])


if __name__ == "__main__":
    main()
