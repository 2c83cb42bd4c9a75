"""How many workers an elastic training starts: as many as there is room for beside what else runs on the cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray._private import state as cluster
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, ScalingDecision

_SETTLED_S = 3.0  # for which a number must stay the same: what ends gives back bit by bit, and dies before it is missed


class Elastic(ElasticScalingPolicy):  # type: ignore[misc]  # Ray's class is untyped
    """Ray's policy shares out all that the nodes have, as if trainings and data sets were alone there.

    Ray 2.60 does not see an endpoint's replicas or another actor: a group that has no room beside them is tried for
    ever, where a smaller one would fit. Here no more are counted than there is room for in what is free and what
    the last group still has, with one CPU left for reading.
    """

    def __init__(self, scaling_config: ScalingConfig) -> None:
        """Of the trainer, with the fewest and the most workers."""
        super().__init__(scaling_config)
        self._group = ""  # the placement group of the last workers, which stay in it until others are to start
        self._running = self._counted = 0
        self._since = 0.0

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """What to do at the start, and when workers have died."""
        if self._running:
            self._running, self._since = 0, time.monotonic()
        return super().make_decision_for_non_running_worker_group()

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """What to do while they run; Ray asks for changes once a minute."""
        self._group = worker_group_state.placement_group_handle.placement_group.id.hex()
        self._running = worker_group_state.num_workers
        return super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        possible: int = super()._count_possible_workers(reserved_resources)
        count = min(possible, self._room())
        if count != self._counted:
            self._counted, self._since = count, time.monotonic()
        if self._running:
            return max(count, self._running)  # what reads has a CPU for moments
        at_once = count == possible and not self._group
        return count if at_once or time.monotonic() - self._since >= _SETTLED_S else 0

    def _room(self) -> int:
        """For how many workers there is room, with a CPU left on the node where it costs least."""
        all_of = cluster.total_resources_per_node()
        free = {
            node: self._with_ours(has, all_of.get(node, {}))
            for node, has in cluster.available_resources_per_node().items()
        }
        left = ({**free, node: {**has, "CPU": has["CPU"] - 1}} for node, has in free.items() if has.get("CPU", 0) >= 1)
        return max(map(super()._count_possible_workers, left), default=0)

    def _with_ours(self, free: Mapping[str, float], total: Mapping[str, float]) -> dict[str, float]:
        """What is free on a node, and what the last group has there; Ray names that after the group."""
        needed = self.scaling_config._resources_per_worker_not_none
        return {name: free.get(name, 0) + total.get(f"{name}_group_{self._group}", 0) for name in {*needed, "CPU"}}
