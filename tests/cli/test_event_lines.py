"""Each event of a job in one line."""

from __future__ import annotations

from typing import Any

import pytest

from rayclf.cli.event_lines import event_line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"kind": "of a later version"}, None),
        (
            {"kind": "damaged checkpoints", "names": ["checkpoint_a", "checkpoint_b"]},
            "damaged or gone, so passed over: checkpoint_a, checkpoint_b",
        ),
        ({"kind": "put back"}, "it came to nothing: what was to be overwritten is in its place again"),
        ({"kind": "done before"}, "the run is done already: nothing is left to train"),
        ({"kind": "resumed", "step": -1}, "going on after step 0"),
        (
            {"kind": "waiting", "needed": "2 worker(s), each with 4 CPU", "free": "3 of 8 CPU"},
            "no worker has begun: needed 2 worker(s), each with 4 CPU; free 3 of 8 CPU",
        ),
        ({"kind": "plan", "rows": 10, "units": 1, "done": 0}, "10 rows in 1 unit, 0 rows done before"),
        ({"kind": "plan", "rows": 10, "units": 2, "done": 5}, "10 rows in 2 units, 5 rows done before"),
        (
            {"kind": "evaluation", "step": 0, "part": "validation", "accuracy": 0.25},
            "evaluation before training on validation rows: accuracy 0.2500",
        ),
        (
            {"kind": "evaluation", "step": 0, "part": "validation", "accuracy": 0.5, "head": True},
            "evaluation of the head alone on validation rows: accuracy 0.5000",
        ),
        (
            {"kind": "evaluation", "step": 8, "part": "validation", "f1_macro": 0.5, "log_loss": None},
            "evaluation of step 8 on validation rows: F1 macro 0.5000, log loss –",
        ),
        (
            {"kind": "evaluation", "step": 8, "part": "validation", "f1_macro": 0.5, "own": {"cost": 2.5}},
            "evaluation of step 8 on validation rows: F1 macro 0.5000, cost 2.5000",
        ),
        (
            {"kind": "evaluation", "step": 8, "part": "test", "accuracy": 1.0, "final": True},
            "evaluation of the best checkpoint on test rows: accuracy 1.0000",
        ),
        (
            {"kind": "head", "step": 0, "rows": 512, "loss_before": 1.1, "loss": 0.25, "seconds": 2.0},
            "head fitted to 512 rows in 2 s, loss 1.1000 to 0.2500",
        ),
        ({"kind": "ended", "state": "failed", "error": "no room"}, "failed: no room"),
    ],
)
def test_an_event_is_a_line(event: dict[str, Any], line: str | None) -> None:
    assert event_line(event) == line


@pytest.mark.parametrize(("asked", "told"), [(256, ""), (4096, ", all that it can read (model.max_length: 4096)")])
def test_a_length_that_was_lowered_is_told(asked: int, told: str) -> None:
    event = {"kind": "start", "backbone": "b", "parameters": 2e6, "max_length": 256, "asked_length": asked}
    event |= {"tuning": "full", "workers": 1, "strategy": "single", "steps": 9}
    line = f"backbone b (2.0 M parameters), up to 256 tokens a text{told}, full tuning, 1 worker(s), single, 9 steps"
    assert event_line(event) == line
