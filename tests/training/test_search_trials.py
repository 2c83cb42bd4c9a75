"""Which trials ASHA stops; real trials are in tests/integration/test_tune_trials.py."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.schedulers import TrialScheduler

from rayclf.training.search.trials import _Halving


def test_neither_the_first_trial_nor_one_that_has_made_all_its_steps_is_stopped() -> None:
    stopped: set[int] = set()
    settings = {"time_attr": "epochs", "max_t": 4, "grace_period": 1, "reduction_factor": 2, "stop_last_trials": False}
    halving = _Halving(stopped, metric="score", mode="max", **settings)
    trials = [SimpleNamespace(trial_id=str(number), config={"number": number}) for number in range(4)]

    def decision(number: int, score: float, left: float) -> str:
        result = {"epochs": 1.0, "epochs_left": left, "score": score}
        return halving.on_trial_result(None, trials[number], result)

    for trial in trials:
        halving.on_trial_add(None, trial)
    assert decision(1, 0.9, 3.0) == TrialScheduler.CONTINUE
    assert decision(2, 0.2, 3.0) == TrialScheduler.STOP
    assert decision(3, 0.1, 0.0) == TrialScheduler.CONTINUE
    assert decision(0, 0.1, 3.0) == TrialScheduler.CONTINUE
    assert stopped == {2}
