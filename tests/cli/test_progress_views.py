"""What a training tells on a terminal while it runs."""

from __future__ import annotations

from rayclf.cli.progress_views import TrainView
from rayclf.cli.show import console


def test_a_training_tells_what_it_was_cut_to_and_that_nothing_was_left() -> None:
    start = {"kind": "start", "backbone": "b", "parameters": 1e6, "workers": 1, "strategy": "single", "tuning": "full",
             "max_length": 512, "steps": 100}  # fmt: skip
    with console.capture() as captured:
        view = TrainView()
        view(start)
        view({"kind": "done before"})
    told = " ".join(captured.get().split())
    assert "up to 512 tokens a text, full tuning, 1 worker(s), single, 100 steps; Ray is starting" in told
    assert "the run is done already: nothing is left to train" in told
