"""One trial of a search as Ray Tune sees it.

It is an actor that holds no CPU: it trains as any caller of :func:`rayclf.train` does, and reads the run folder for
evaluations. Stopping it interrupts its training as Ctrl-C would, and waits until Ray Train has taken its workers down:
an actor that merely died would leave the CPUs of its training reserved.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from rayclf.cluster import adopt, root_cause
from rayclf.config import Config
from rayclf.errors import RayclfError
from rayclf.training.run import Run

_POLL = 0.5  # seconds between looks into a run folder, and the longest that a stop waits for a trial
_PATIENCE = 300.0  # seconds for a stopped training to write a checkpoint and take its workers down


@dataclass(frozen=True)
class Task:
    """What one trial needs: the prepared data, the run folder, the settings, and what its metric counts by."""

    dataset: str
    folder: Path
    settings: Config
    steps_per_epoch: int
    lower_is_better: bool
    own_ray: bool


def read_curve(run: Run, metric: str) -> tuple[tuple[int, float], ...]:
    """``(step, metric)`` of each validation while training: neither the baseline before it nor the test after it."""
    return tuple(
        (event["step"], event[metric])
        for event in run.events
        if event["kind"] == "evaluation"
        and event["part"] == "validation"
        and event["step"] > 0
        and not event.get("final")
        and event.get(metric) is not None
    )


class TrainingTrial(tune.Trainable):  # type: ignore[misc]
    """Tune's view of one training, which runs in a thread: each step is a look at what it has evaluated so far."""

    def setup(self, config: dict[str, Any], tasks: Sequence[Task] = (), place: str = "") -> None:
        """Start the training."""
        os.chdir(place)  # relative paths in the settings mean what they mean to the caller, who is on this node
        self.job = tasks[config["number"]]
        adopt(self.job.own_ray)
        self.failure: BaseException | None = None
        self.ending = threading.Event()
        self.told = False
        self.training = threading.Thread(target=self._train, daemon=True)
        self.training.start()

    def _train(self) -> None:
        from rayclf.training.driver import train

        try:
            train(self.job.dataset, self.job.folder, config=self.job.settings, on_event=self._end_if_asked)
        except BaseException as error:
            self.failure = error

    def _end_if_asked(self, event: Mapping[str, Any]) -> None:
        if self.ending.is_set() and not self.told:
            self.told = True
            raise KeyboardInterrupt

    def step(self) -> dict[str, Any]:
        """The latest score, larger for better, at how many epochs, and the curve; ``done`` once training has ended."""
        self.training.join(_POLL)
        ended = not self.training.is_alive()
        metric = self.job.settings.train.metric
        curve = read_curve(Run(self.job.folder), metric)
        step, value = curve[-1] if curve else (0, float("nan"))
        return {
            "score": -value if self.job.lower_is_better else value,
            "epochs": (epochs := step / self.job.steps_per_epoch),
            "epochs_left": self.job.settings.train.epochs - epochs,
            "curve": curve,
            "error": named(self.failure) if self.failure else None,
            "training_ended": ended,  # Tune says "done" of trials that it stops, too
            "done": ended,
        }

    def cleanup(self) -> None:
        """Interrupt the training if it is still at work, and wait until it has released what it held."""
        self.ending.set()
        self.training.join(_PATIENCE)


def named(error: BaseException) -> str:
    """An error as one line that begins with its class in :mod:`rayclf.errors`."""
    cause = error if isinstance(error, RayclfError) else root_cause(error, "training")
    return f"{type(cause).__name__}: {cause}"
