"""What is watched of jobs while they run: gauges beside what Ray shows of its nodes, there named ``ray_rayclf_…``.

The driver tells them, so they are on the metrics port of its node, and end with it: what a job has done is in its
folder. A label says which job it is; labels of rows and texts are in no metric.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
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


_AGAIN_S = 1.0  # more often than Ray reports: each 10 s, or by RAY_metrics_report_interval_ms


class JobGauges:
    """The gauges of one job, until it is closed: Ray forgets one that is not set again between its reports.

    ``job`` is the label that says which job it is, ``run`` or ``output``. A Ray must be there.
    """

    def __init__(self, **job: str) -> None:
        from ray.util.metrics import Gauge

        (label,) = self._job = job
        self._gauges = {
            name: Gauge(f"rayclf_{name}", text, labels)
            for name, (text, labels) in DEFINITIONS.items()
            if label in labels
        }
        self._last: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tell_again, daemon=True)
        self._thread.start()

    def tell(self, name: str, value: Any, **labels: str) -> None:
        """Set a gauge; what is no finite number is passed over."""
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            self._last[name, tuple(labels.items())] = value
            self._gauges[name].set(value, self._job | labels)

    def _tell_again(self) -> None:
        while not self._closed.wait(_AGAIN_S):
            for (name, labels), value in list(self._last.items()):
                self._gauges[name].set(value, self._job | dict(labels))

    def close(self) -> None:
        """The job has ended."""
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ScoreGauges(JobGauges):
    """The progress of a scoring job."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take what ``on_event`` gets."""
        for name in UNIT:
            self.tell(f"score_{name}", event[name])


class TrainGauges(JobGauges):
    """A :class:`~rayclf.training.tracking.Tracker` of a training."""

    def event(self, event: Mapping[str, Any]) -> None:
        """Take a step or an evaluation; other kinds are passed over."""
        if event["kind"] == "step":
            for name in STEP:
                self.tell(f"train_{name}", event.get(name))
        elif event["kind"] == "evaluation":
            for name in event.keys() - {"time", "step", "epoch"}:
                self.tell("train_evaluation", event[name], part=event["part"], metric=name)

    def finish(self, run: Run, state: str) -> None:
        """The run has ended."""
        self.close()
