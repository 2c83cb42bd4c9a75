"""What is watched of jobs while they run: gauges beside what Ray shows of its nodes, there named ``ray_rayclf_…``.

The driver tells them, so they are on the metrics port of its node, and end with it: what a job has done is in its
folder. A label says which job it is; labels of rows and texts are in no metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

    from rayclf.training.run import Run

STEP = {  # the fields of a training's steps
    "step": "Steps done.",
    "epoch": "Pass over the rows, from 1.",
    "loss": "Loss of the last step.",
    "learning_rate": "Learning rate of the last step.",
    "grad_norm": "Norm of the last step's gradient, before it is clipped.",
    "rows_per_second": "Rows trained in a second by all workers together.",
}
UNIT = {  # and of a scoring job's progress
    "rows": "Rows done, those of earlier runs of the job too.",
    "of": "Rows of the job.",
    "errors": "Rows without a label, in this run.",
    "rows_per_second": "Rows scored in a second by all replicas together.",
    "tokens_per_second": "Tokens scored in a second by all replicas together.",
    "seconds_left": "Seconds until the job is done, at its rate so far.",
    "dollars": "Dollars so far, where a price was given.",
}
DEFINITIONS = {
    **{f"train_{name}": (text, ("run",)) for name, text in STEP.items()},
    "train_evaluation": ("A metric of a part of the rows, at the last evaluation.", ("run", "part", "metric")),
    **{f"score_{name}": (text, ("output",)) for name, text in UNIT.items()},
}


@cache
def _gauge(name: str) -> Gauge:
    from ray.util.metrics import Gauge

    text, labels = DEFINITIONS[name]
    return Gauge(f"rayclf_{name}", text, labels)


def _tell(name: str, value: Any, **labels: str) -> None:
    """Set a gauge; what is no finite number is passed over."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        _gauge(name).set(value, labels)


def tell_progress(event: Mapping[str, Any], output: str) -> None:
    """The progress of a scoring job, as ``on_event`` gets it."""
    for name in UNIT:
        _tell(f"score_{name}", event.get(name), output=output)


class RayGauges:
    """A :class:`~rayclf.training.tracking.Tracker` of a training."""

    def __init__(self, run: str) -> None:
        self.run = run

    def event(self, event: Mapping[str, Any]) -> None:
        """Take a step or an evaluation."""
        if event["kind"] == "step":
            for name in STEP:
                _tell(f"train_{name}", event.get(name), run=self.run)
        elif event["kind"] == "evaluation":
            for name in event.keys() - {"time", "step", "epoch"}:
                _tell("train_evaluation", event[name], run=self.run, part=event["part"], metric=name)

    def finish(self, run: Run, state: str) -> None:
        """Nothing is left to do."""
