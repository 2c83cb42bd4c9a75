"""Tells what a training waits for whose workers do not begin: Ray waits for room without a word, and without an end."""

from __future__ import annotations

import math
import time
from typing import Any

import ray

from rayclf.training.job import Job
from rayclf.training.plan import Cluster

FIRST_S, AGAIN_S = 30.0, 300.0


class Room:
    """What the workers of a training need and what there is, while none of them has begun."""

    def __init__(self, job: Job, cluster: Cluster) -> None:
        """Of a training that is just being started."""
        self._job, self._cluster = job, cluster
        self._next = time.monotonic() + FIRST_S

    def news(self) -> dict[str, str] | None:
        """An event after 30 s and then every five minutes, as long as no worker has begun; else None."""
        if time.monotonic() < self._next:
            return None
        if ray.get(self._job.journal.workers.remote()):
            self._next = math.inf
            return None
        self._next = time.monotonic() + AGAIN_S
        workers = self._cluster.workers
        each: dict[str, Any] = {"CPU": self._job.config.resources.cpus_per_worker} | (
            {"GPU": 1} if self._cluster.gpu else {}
        )
        free, there = ray.available_resources(), ray.cluster_resources()
        return {
            "kind": "waiting",
            "needed": f"{workers if isinstance(workers, int) else workers[0]} worker(s), each with "
            + " and ".join(f"{count:g} {name}" for name, count in each.items()),
            "free": ", ".join(f"{free.get(name, 0):g} of {there.get(name, 0):g} {name}" for name in each),
        }
