"""How many workers an elastic training starts, from what the nodes have and what is free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig

from rayclf.training import elastic
from rayclf.training.elastic import Elastic

Nodes = dict[str, dict[str, float]]


class Told:
    """A policy whose cluster, clock and coordinator are the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workers: tuple[int, int], **worker: float) -> None:
        self.now, self.free, self.all = 100.0, Nodes(), Nodes()
        monkeypatch.setattr(elastic.cluster, "available_resources_per_node", lambda: self.free)
        monkeypatch.setattr(elastic.cluster, "total_resources_per_node", lambda: self.all)
        monkeypatch.setattr(elastic, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.policy: Any = Elastic(
            ScalingConfig(num_workers=workers, resources_per_worker=worker, use_gpu="GPU" in worker)
        )
        self.policy._maybe_send_resource_request = lambda: None
        self.policy._get_reserved_resources = lambda: self.all

    def start(self) -> int:
        """With how many workers it would start now; 0 where it waits."""
        return getattr(self.policy.make_decision_for_non_running_worker_group(), "num_workers", 0)

    def resize(self, running: int) -> int:
        """How many it would have instead of those that run."""
        self.policy._latest_monitor_time = float("-inf")
        group = SimpleNamespace(placement_group=SimpleNamespace(id=bytes.fromhex("ab")))
        state = SimpleNamespace(num_workers=running, start_time=float("-inf"), placement_group_handle=group)
        return getattr(self.policy.make_decision_for_running_worker_group(state, None), "num_workers", running)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ({"a": {"CPU": 5}}, 2),
        ({"a": {"CPU": 4}}, 1),  # one is for reading
        ({"a": {"CPU": 3}, "b": {"CPU": 2}}, 2),  # which costs nothing on the first
        ({"a": {"CPU": 2}, "b": {"CPU": 2}}, 1),
        ({"a": {"CPU": 2}}, 0),
        ({"a": {"CPU": 3}, "b": {}}, 1),
        ({}, 0),
    ],
    ids=str,
)
def test_as_many_as_there_is_room_for(free: Nodes, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, (1, 2), CPU=2)
    told.all, told.free = {"a": {"CPU": 8}}, free
    told.start()
    told.now += 4
    assert told.start() == expected


def test_a_group_that_could_be_larger_waits_a_little_for_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, (1, 3), CPU=2)
    told.all = {"a": {"CPU": 7}}
    for seconds, cpus, expected in ((0, 3, 0), (2, 5, 0), (2, 5, 0), (1, 5, 2), (0, 7, 3)):
        told.now += seconds
        told.free = {"a": {"CPU": cpus}}
        assert told.start() == expected


def test_gpus_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, (1, 8), CPU=1, GPU=1)
    told.all = {"a": {"CPU": 32, "GPU": 8}}
    told.free = {"a": {"CPU": 32, "GPU": 5}}  # three have an endpoint's replicas
    told.start()
    told.now += 4
    assert told.start() == 5


def test_those_that_run_keep_their_places_and_others_come_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, (1, 4), CPU=2)
    told.all, told.free = {"a": {"CPU": 8, "CPU_group_ab": 4}}, {"a": {"CPU": 0.5}}
    assert told.resize(2) == 2
    told.all["b"] = told.free["b"] = {"CPU": 3}
    assert told.resize(2) == 3


def test_the_places_of_workers_that_died_are_for_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray asks how many are to follow before it takes a group down."""
    told = Told(monkeypatch, (1, 2), CPU=2)
    told.all = {"a": {"CPU": 4, "CPU_group_ab": 2}, "b": {"CPU": 2, "CPU_group_ab": 2}}
    told.free = {"a": {"CPU": 1}, "b": {"CPU": 0}}  # one is another's
    assert told.resize(2) == 2
    assert told.start() == 0  # the node is not missed yet
    told.now += 1
    del told.all["b"], told.free["b"]
    assert told.start() == 0
    told.now += 3
    assert told.start() == 1
