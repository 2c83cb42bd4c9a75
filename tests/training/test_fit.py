from __future__ import annotations

from ray.train import ScalingConfig

from rayclf.training.fit import _Alone


def test_a_fixed_number_of_workers_on_a_local_ray_asks_nobody() -> None:
    """Ray's own policy asks an actor at each of these, and fails here, where there is none."""
    policy = _Alone(ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}))
    policy.after_controller_start(None)
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (2, {"CPU": 0.5})
    policy.make_decision_for_running_worker_group(None, None)
    policy.before_controller_abort()
