"""What is printed of a training, and of how good its classifier is."""

from __future__ import annotations

from rayclf.cli.show import TrainView, console, metrics_table


def test_the_metric_that_chose_has_its_interval() -> None:
    interval = {"metric": "f1_macro", "low": 0.45, "high": 0.5512, "level": 0.95}
    metrics = {"rows": 9, "accuracy": 0.75, "f1_macro": 0.5, "per_label": [], "interval": interval}
    with console.capture() as captured:
        console.print(metrics_table(metrics, "test"))
        console.print(metrics_table({**metrics, "interval": None}, "again"))
    first, _, second = captured.get().partition("again")
    assert "F1, macro: 95% confidence from 0.4500 to 0.5512" in first
    assert "95%" not in second


def test_a_training_tells_what_it_was_cut_to_and_that_nothing_was_left() -> None:
    start = {"kind": "start", "backbone": "b", "parameters": 1e6, "workers": 1, "strategy": "single", "tuning": "full",
             "max_length": 512, "steps": 100}  # fmt: skip
    with console.capture() as captured:
        view = TrainView()
        view(start)
        view({"kind": "done before"})
    told = " ".join(captured.get().split())
    assert "full tuning, up to 512 tokens a text, 1 worker(s), single" in told
    assert "the run is done already: nothing is left to train" in told
