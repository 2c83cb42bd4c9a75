from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from rayclf.training import preemption
from rayclf.training.preemption import EVERY_S, Preemption


@pytest.fixture
def ray_says(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock, what Ray answers, and how often it was asked."""
    state: Any = SimpleNamespace(now=100.0, info=None, asked=0)

    def answer() -> Any:
        state.asked += 1
        return state.info

    monkeypatch.setattr(ray.train, "get_preemption_info", answer)
    monkeypatch.setattr(preemption.time, "monotonic", lambda: state.now)
    return state


def test_ray_is_asked_from_time_to_time(ray_says: SimpleNamespace) -> None:
    """Ten workers' steps of 10 ms each for two seconds, not quite at the same time: all ask equally often."""
    workers = [Preemption() for _ in range(10)]
    ask, calls = False, [0] * len(workers)
    for _ in range(200):
        for number, worker in enumerate(workers):
            before = ray_says.asked
            assert not worker.news(ask)
            calls[number] += ray_says.asked - before
            ray_says.now += 0.0001  # they are not in step to the millisecond
        ask = any(worker.due() for worker in workers)
        ray_says.now += 0.009
    assert set(calls) == {calls[0]}
    assert 6 <= calls[0] <= 8


def test_a_node_that_goes_is_news_once(ray_says: SimpleNamespace) -> None:
    watch = Preemption()
    ray_says.now += EVERY_S
    assert watch.due()
    assert not watch.news(True)
    assert not watch.due()
    ray_says.info = object()
    assert not watch.news(False)
    assert watch.news(True)
    ray_says.now += 10 * EVERY_S
    assert not watch.due()
    assert not watch.news(True)
    assert ray_says.asked == 2
