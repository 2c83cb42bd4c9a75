"""Interrupted at random steps, resumed, and compared with a run that never was.

    python tests/benchmarks/resume.py [--trials 50] [--seed 1]

By turns a worker is killed with SIGKILL and replaced by Ray Train, and the run is stopped and resumed with another
number of workers. A trial is equal when every loss of the run and every metric of its parts lie within 1e-5 of those of
the undisturbed run. A tiny random BERT on the demo's questions, one Ray for all trials.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import write_backbone

import rayclf
from rayclf.demo.lessons import data_file

SETTINGS: dict[str, Any] = {
    "train.epochs": 2,
    "train.batch_size": 64,
    "train.learning_rate": 3e-3,
    "train.precision": "fp32",
    "train.checkpoint_steps": 3,
    "train.max_failures": 3,
    "resources.cpus_per_worker": 0.5,
    "evaluation.training_rows": 0,
    "evaluation.resamples": 0,
}


def difference(run: rayclf.Run, other: rayclf.Run) -> float:
    """The largest between losses and metrics of two runs; infinite where one lacks a step."""
    mine, theirs = ({e["step"]: e["loss"] for e in one.events if e["kind"] == "step"} for one in (run, other))
    if set(mine) != set(theirs):
        return float("inf")
    gaps = [abs(mine[step] - loss) for step, loss in theirs.items()]
    for part, metrics in other.metrics.items():
        gaps += [abs(run.metrics[part][name] - v) for name, v in metrics.items() if isinstance(v, float)]
    return max(gaps)


def interrupt(folder: Path, source: str, step: int, kill: bool, workers: tuple[int, int]) -> rayclf.Run:
    """One run that is interrupted when step ``step`` is told, and goes on."""
    run, done = rayclf.Run(folder), False

    def act(event: dict[str, Any]) -> None:
        nonlocal done
        if event["kind"] == "step" and event["step"] >= step and not done:
            done = True
            if not kill:
                raise KeyboardInterrupt
            os.kill(run.status["processes"]["0"]["pid"], signal.SIGKILL)

    job: dict[str, Any] = {"backbone": source, "overrides": SETTINGS | {"resources.workers": workers[0]}}
    try:
        rayclf.train(data_file("questions.csv"), folder, on_event=act, **job)
    except KeyboardInterrupt:
        job["overrides"] = SETTINGS | {"resources.workers": workers[1]}
        rayclf.train(data_file("questions.csv"), folder, resume=True, **job)
    return run


def main() -> None:
    """Run the trials and print how many were equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance, equal, worst = random.Random(args.seed), 0, 0.0
    with tempfile.TemporaryDirectory() as place:
        source = str(write_backbone(Path(place) / "bert", "bert"))
        whole = rayclf.train(data_file("questions.csv"), Path(place) / "whole", backbone=source, overrides=SETTINGS)
        steps = max(event["step"] for event in whole.events)
        for trial in range(args.trials):
            step, kill = chance.randrange(1, steps), trial % 2 == 0
            workers = (1, 1) if kill else chance.choice([(1, 2), (2, 1)])
            run = interrupt(Path(place) / str(trial), source, step, kill, workers)
            gap = difference(run, whole)
            equal, worst = equal + (gap <= 1e-5), max(worst, gap)
            how = "worker killed" if kill else f"stopped, {workers[0]} → {workers[1]} workers"
            print(f"trial {trial + 1}  step {step}/{steps}  {how}  difference {gap:.1e}", flush=True)
    print(f"{equal} of {args.trials} equal; largest difference {worst:.1e}")


if __name__ == "__main__":
    main()
