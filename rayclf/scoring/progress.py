"""How far a scoring job is: rate, time left and dollars, from the units that are done."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from rayclf.errors import ResourceError


@dataclass
class Progress:
    """Counts of a job. ``rows`` and what is ``done`` before count the whole job, the others this run of it.

    ``price_per_hour`` is of all machines together, in dollars; ``spent_before`` seconds of earlier runs count too.
    """

    total: int
    done: int = 0
    price_per_hour: float | None = None
    spent_before: float = 0.0
    rows: int = 0
    errors: int = 0
    tokens: int = 0
    bytes: int = 0
    units: int = 0
    _started: float = field(default_factory=time.time)
    _began: float = math.inf
    _ended: float = 0.0

    def add(self, record: dict[str, Any]) -> None:
        """Count a unit by its commit record."""
        self.units += 1
        for name in ("rows", "errors", "tokens", "bytes"):
            setattr(self, name, getattr(self, name) + int(record[name]))
        self._began = min(self._began, float(record["began"]))
        self._ended = max(self._ended, float(record["ended"]))

    @property
    def seconds(self) -> float:
        """From the first unit's begin to the last one's end: starting processes and loading are not counted."""
        return max(0.0, self._ended - self._began)

    @property
    def rows_per_second(self) -> float:
        """Rows scored in a second by all replicas together."""
        return self.rows / self.seconds if self.seconds else 0.0

    def event(self) -> dict[str, Any]:
        """For whoever watches. ``seconds_left`` is None before the first unit is done, dollars are without a price."""
        rate, ready = self.rows_per_second, self.done + self.rows
        left = (self.total - ready) / rate if rate else None
        spent = self.spent_before + time.time() - self._started
        price = self.price_per_hour
        return {
            "kind": "unit",
            "rows": ready,
            "of": self.total,
            "errors": self.errors,
            "rows_per_second": rate,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
            "seconds_left": left,
            "seconds_spent": spent,
            "dollars": None if price is None else price * spent / 3600,
            "dollars_in_all": None if price is None or left is None else price * (spent + left) / 3600,
        }


def push_summary(gateway: str, summary: dict[str, Any]) -> None:
    """Tell a Prometheus push gateway what a job did; raises ResourceError when it cannot be reached."""
    from prometheus_client import CollectorRegistry, Gauge, push_to_gateway

    registry = CollectorRegistry()
    for name in ("rows", "errors", "tokens", "units", "seconds", "rows_per_second", "dollars"):
        if summary[name] is not None:
            Gauge(f"rayclf_score_{name}", f"{name} of the scoring job", registry=registry).set(summary[name])
    try:
        push_to_gateway(gateway, job="rayclf_score", grouping_key={"output": summary["output"]}, registry=registry)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"--push-gateway {gateway}: cannot be reached ({error}); the job itself is done, check the address"
        ) from None
