"""The number of replicas from what they measured, from the schedule, and from the last request."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from rayclf.serving.autoscale import Gauge, Scaling

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
SUNDAY = datetime(2026, 11, 22, 12, tzinfo=UTC)


def context(*replicas: tuple[float, float, float], target: int | None = None) -> Any:
    """What Serve tells of replicas that reported (idle_s, queue_s, busy)."""
    names = ("idle_s", "queue_s", "busy")
    metrics = {name: {n: report[i] for n, report in enumerate(replicas)} for i, name in enumerate(names)}
    count = len(replicas)
    return SimpleNamespace(
        current_num_replicas=count, target_num_replicas=count if target is None else target, aggregated_metrics=metrics
    )


def test_a_gauge_tells_of_the_time_since_it_was_read() -> None:
    now = 0.0
    gauge = Gauge(clock=lambda: now)
    gauge.begin()
    now = 10.0
    assert gauge.read()["idle_s"] == 0  # a request runs
    gauge.batch([1.0, 3.0], 2.5)
    gauge.end()
    now = 15.0
    assert gauge.read() == {"idle_s": 5.0, "queue_s": 2.0, "busy": 0.5}
    now = 16.0
    assert gauge.read() == {"idle_s": 6.0, "queue_s": 0.0, "busy": 0.0}


def test_the_last_replica_goes_when_no_request_came_for_so_long_and_not_before() -> None:
    scaling = Scaling(0, 60)
    assert scaling(context((59, 0, 0)))[0] == 1
    assert scaling(context((61, 0, 0)))[0] == 0
    assert scaling(context((61, 0, 0), (3, 0, 0)))[0] == 1
    assert Scaling(1, 60)(context((61, 0, 0)))[0] == 1


def test_queues_bring_replicas_and_work_keeps_them() -> None:
    scaling = Scaling(0, 60)
    assert scaling(context((0, 0.4, 1)))[0] == 2
    assert scaling(context((0, 9, 1), (0, 9, 1)))[0] == 4  # never more than twice as many at once
    assert scaling(context((0, 0.1, 0.9), (0, 0.1, 0.9)))[0] == 2
    assert scaling(context((0, 0, 0.1), (0, 0, 0.1), (0, 0, 0.1)))[0] == 1


def test_the_schedule_closes_and_opens() -> None:
    now = SUNDAY
    scaling = Scaling(2, 60, "Mon-Fri 08:00-20:00 Europe/Berlin", now=lambda: now)
    assert scaling(context((0, 9, 1)))[0] == 0
    assert scaling(context())[0] == 0
    now = MONDAY_NOON
    assert scaling(context())[0] == 2
    assert scaling(context((0, 0, 0), (0, 0, 0)))[0] == 2


def test_a_replica_that_has_reported_nothing_yet_stays() -> None:
    told = SimpleNamespace(current_num_replicas=1, target_num_replicas=1, aggregated_metrics={})
    assert Scaling(0, 60)(told)[0] == 1


@given(
    st.lists(st.tuples(st.floats(0, 59), st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=8), st.integers(0, 3)
)
def test_what_is_in_use_is_never_put_to_sleep(reports: list[tuple[float, float, float]], least: int) -> None:
    wanted = Scaling(least, 60)(context(*reports))[0]
    assert max(1, least) <= wanted <= max(2 * len(reports), least)


@pytest.mark.parametrize("schedule", [None, "Mon-Fri 08:00-20:00 Europe/Berlin"])
def test_serve_makes_the_policy_of_its_arguments(schedule: str | None) -> None:
    arguments = {"least": 0, "inactive_timeout_s": 5.0, "schedule": schedule}
    policy = AutoscalingPolicy(policy_function=Scaling, policy_kwargs=arguments)
    found = AutoscalingConfig(min_replicas=0, max_replicas=2, policy=policy).policy
    assert found.get_policy()(**found.policy_kwargs)(context())[0] == 0
