"""What is printed of how good a classifier is."""

from __future__ import annotations

from rayclf.cli.show import console, metrics_table


def test_the_metric_that_chose_has_its_interval() -> None:
    interval = {"metric": "f1_macro", "low": 0.45, "high": 0.5512, "level": 0.95}
    metrics = {"rows": 9, "accuracy": 0.75, "f1_macro": 0.5, "per_label": [], "interval": interval}
    with console.capture() as captured:
        console.print(metrics_table(metrics, "test"))
        console.print(metrics_table({**metrics, "interval": None}, "again"))
    first, _, second = captured.get().partition("again")
    assert "F1, macro: 95% confidence from 0.4500 to 0.5512" in first
    assert "95%" not in second
