"""What happens in a job, as lines that read well in a log: no bars, no carriage returns, a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from rayclf.cli.event_lines import event_line, step_line
from rayclf.cli.show import duration


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
