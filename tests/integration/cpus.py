"""The CPUs of the Ray that the tests share."""

from __future__ import annotations

import time

import ray


def wait_for_cpus() -> float:
    """CPUs that are free once what has ended has been cleared away."""
    for _ in range(300):
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            break
        time.sleep(0.2)
    return float(ray.available_resources().get("CPU", 0))
