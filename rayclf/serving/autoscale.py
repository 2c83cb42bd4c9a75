"""How many replicas a version should have: from measured queue time and work, the last request, and the schedule.

Serve's own policy counts requests in flight, sampled now and then. A batcher takes a hundred at once with ease, so
their number says little; and a request of 10 ms is rarely seen by a sample, so an endpoint in light use would be put to
sleep. Replicas therefore report what they measured, and Serve runs :class:`Scaling` in its controller, which needs
rayclf on the head node. The delays before replicas come and go stay Serve's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rayclf.serving.schedule import Schedule

_QUEUE_TARGET_S = 0.25  # of a request until its first batch: beyond it there are too few replicas
_BUSY_TARGET = 0.7  # share of the time in which a replica computes; queues grow without bound towards 1


class Gauge:
    """What one replica did since it was last asked."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = self._since = clock()
        self._running = 0
        self._queued: list[float] = []
        self._computed = 0.0

    def begin(self) -> None:
        """A request came."""
        self._running += 1

    def end(self) -> None:
        """A request was answered, or its client went."""
        self._running -= 1
        self._last = self._clock()

    def batch(self, queue_seconds: Iterable[float], compute_seconds: float) -> None:
        """A batch: how long the requests that began with it had waited, and how long it took."""
        self._queued.extend(queue_seconds)
        self._computed += compute_seconds

    def read(self) -> dict[str, float]:
        """``idle_s`` since the last request, mean ``queue_s``, and ``busy``, the share of time; then it starts anew."""
        now = self._clock()
        seconds = max(now - self._since, 1e-9)
        told = {
            "idle_s": 0.0 if self._running else now - self._last,
            "queue_s": sum(self._queued) / len(self._queued) if self._queued else 0.0,
            "busy": min(1.0, self._computed / seconds),
        }
        self._since, self._queued, self._computed = now, [], 0.0
        return told


class Scaling:
    """A policy of Serve (``AutoscalingPolicy(policy_function=Scaling, policy_kwargs=…)``)."""

    def __init__(
        self,
        least: int,
        inactive_timeout_s: float,
        schedule: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """At least ``least`` replicas while ``schedule`` is open, none while it is closed.

        Where ``least`` is 0, the last one goes after ``inactive_timeout_s`` without a request.
        """
        self._least, self._quiet_s, self._now = least, inactive_timeout_s, now
        self._schedule = Schedule.parse(schedule) if schedule else None

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """The number of replicas for Serve's ``AutoscalingContext``, and its state, of which there is none."""
        if self._schedule is not None and not self._schedule.is_open(self._now()):
            return 0, {}
        running = context.current_num_replicas
        if not running:  # a request that waits for one has woken it already, see Serve's cold start
            return max(self._least, context.target_num_replicas), {}
        metrics = context.aggregated_metrics or {}
        return max(self._least, self._wanted(running, context.target_num_replicas, metrics)), {}

    def _wanted(self, running: int, target: int, metrics: Mapping[str, Mapping[Any, float]]) -> int:
        idle, queue, busy = (list(metrics.get(name, {}).values()) for name in ("idle_s", "queue_s", "busy"))
        if not idle:  # just started, nothing was reported yet
            return target
        if min(idle) >= self._quiet_s:
            return 0
        wait = sum(queue) / len(queue)
        if wait > _QUEUE_TARGET_S:  # waits grow faster than load near its limit: no more than twice as many at a time
            return math.ceil(running * min(2.0, wait / _QUEUE_TARGET_S))
        # To do the same work: in proportion to it, which waits are not.
        return max(1, min(running, math.ceil(sum(busy) / len(busy) * running / _BUSY_TARGET)))
