"""What happens in a job, as lines that read well in a log: no bars, no carriage returns, a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rayclf.cli.show import number
from rayclf.cli.show_score import duration

_TOLD = {"accuracy": "accuracy", "f1_macro": "F1 macro", "log_loss": "log loss"}


class JobLog:
    """Prints the events of :func:`rayclf.train`, ``tune``, ``prepare`` and ``score``.

    Of what comes often, steps and rows and units, a line ``every`` seconds and the last one; all else at once.
    """

    def __init__(self, every: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every, self._clock = every, clock
        self._begun: dict[str, tuple[float, int]] = {}
        self._told = float("-inf")
        self._rows = 0
        self._steps: int | None = None

    def say(self, text: str) -> None:
        """A line with the time in UTC; written at once, since a log is read while it grows."""
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(text.splitlines())}", flush=True)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take an event."""
        match event["kind"]:
            case "step":
                self._rows += event["rows"]
                self.progress("step", event["step"], self._steps, f"{self._rows} rows, {step_line(event)}")
            case "rows":
                self.progress("rows written", event["done"], event["of"])
            case "unit":
                left = event["seconds_left"]
                rate = f"{event['errors']} with errors, {event['rows_per_second']:.0f} rows/s"
                self.progress("rows scored", event["rows"], event["of"], rate, left)
            case _:
                if event["kind"] == "start":
                    self._steps = event["steps"]
                if (line := event_line(event)) is not None:
                    self.say(line)

    def progress(
        self, what: str, done: int, total: int | None, note: str | None = None, left: float | None = None
    ) -> None:
        """``done`` of ``total`` is reached. Without a ``note`` the rate is told; ``left`` is worked out if need be."""
        now = self._clock()
        began, first = self._begun.setdefault(what, (now, done))
        if now - self._told < self._every and done != total:
            return
        self._told = now
        rate = (done - first) / (now - began) if now > began else 0.0
        if left is None and total is not None and rate:
            left = (total - done) / rate
        parts = [f"{what} {done}" if total is None else f"{what} {done}/{total}"]
        parts += [note] if note is not None else [f"{rate:.0f}/s"] if rate else []
        parts += [f"{duration(left)} left"] if left is not None and done != total else []
        self.say(", ".join(parts))


def step_line(event: Mapping[str, Any]) -> str:
    """What a training step tells, but for its number."""
    return f"epoch {event['epoch']}, loss {event['loss']:.4f}, {event['rows_per_second']:.0f} rows/s"


def event_line(event: Mapping[str, Any]) -> str | None:
    """An event in one line of plain text; None for one that has nothing to tell."""
    match event["kind"]:
        case "data":
            parts = ", ".join(f"{name} {counts.rows}" for name, counts in event["parts"].items())
            space = event["space"]
            return f"{event['read']} rows read, {event['quarantined']} set aside; {parts}; {_labels(space)}"
        case "plan" if "plan" in event:
            plan = event["plan"]
            parts = ", ".join(f"{name} {plan.counts(name).rows}" for name in plan.names)
            return f"{parts}; {_labels(plan.found.space)}"
        case "plan":
            return f"{event['rows']} rows in {event['units']} units, {event['done']} rows done before"
        case "start":
            size = f"{event['backbone']} ({event['parameters'] / 1e6:.1f} M parameters)"
            size += f", up to {event['max_length']} tokens a text"
            where = f"{event['workers']} worker(s), {event['strategy']}"
            return f"backbone {size}, {event['tuning']} tuning, {where}, {event['steps']} steps"
        case "step":
            return f"step {event['step']}, {step_line(event)}"
        case "evaluation":
            when = "the best checkpoint" if event.get("final") else f"step {event['step']}"
            return f"evaluation of {when} on {event['part']} rows: {metrics_line(event)}"
        case "waiting":
            return f"no worker has begun: needed {event['needed']}; free {event['free']}"
        case "resumed":
            return f"going on after step {max(0, event['step'])}"
        case "done before":
            return "the run is done already: nothing is left to train"
        case "stopping":
            return "stopping after a checkpoint; with resume the same job goes on from there"
        case "search":
            return f"{event['trials']} trials, {event['concurrent']} at a time, over {', '.join(event['space'])}"
        case "trial":
            return _trial_line(event)
        case "ended":
            return event["state"] + (f": {event['error']}" if event["error"] else "")
    return None


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """The metrics that a log tells, of many."""
    return ", ".join(f"{shown} {number(metrics[name])}" for name, shown in _TOLD.items() if name in metrics)


def _labels(space: Any) -> str:
    return f"{len(space)} label(s), {space.problem_type}"


def _trial_line(event: Mapping[str, Any]) -> str:
    trial = event["trial"]
    values = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in trial.values.items())
    what = f"{trial.state}: {trial.error}" if trial.error else f"{trial.state}, {number(trial.score)}"
    best = ", best so far" if trial.id == event["best"] else ""
    left = "" if event["left"] is None else f", {duration(event['left'])} left"
    return f"{event['ended']}/{event['of']} trial {trial.id} ({values}): {what}{best}{left}"
