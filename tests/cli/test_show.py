"""What is printed of how good a classifier is."""

from __future__ import annotations

import numpy as np
import pytest

from rayclf.cli.show import console, labels_table, metrics_table
from rayclf.data.weights import LabelCounts
from rayclf.labels import LabelSpace, ProblemType


def test_the_metric_that_chose_has_its_interval() -> None:
    interval = {"metric": "f1_macro", "low": 0.45, "high": 0.5512, "level": 0.95}
    metrics = {"rows": 9, "accuracy": 0.75, "f1_macro": 0.5, "per_label": [], "interval": interval}
    with console.capture() as captured:
        console.print(metrics_table(metrics, "test"))
        console.print(metrics_table({**metrics, "interval": None}, "again"))
    first, _, second = captured.get().partition("again")
    assert "F1, macro: 95% confidence from 0.4500 to 0.5512" in first
    assert "95%" not in second


def test_of_a_row_with_several_labels_it_says_that_all_have_to_be_right() -> None:
    metrics = {"rows": 9, "accuracy": 0.75, "subset_accuracy": 0.75, "hamming_loss": 0.1, "per_label": []}
    with console.capture() as captured:
        console.print(metrics_table(metrics, "test"))
    names = [line.split("│")[1].strip() for line in captured.get().splitlines() if "0." in line]
    assert names == ["accuracy, whole rows", "Hamming loss"]


@pytest.mark.parametrize("labels", [20, 60])
def test_of_many_labels_those_with_the_most_rows_are_shown(labels: int) -> None:
    names, rows = [f"label{n:02}" for n in range(labels)], [n % 30 for n in range(labels)]
    each = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "roc_auc": None}
    per_label = [{"label": name, "support": n, **each} for name, n in zip(names, rows, strict=True)]
    counts = LabelCounts(sum(rows), np.asarray(rows), np.asarray(rows))
    space = LabelSpace(tuple(names), ProblemType.MULTILABEL)
    for table in (
        metrics_table({"rows": 9, "per_label": per_label, "interval": None}, "test"),
        labels_table(space, {"train": counts}),
    ):
        with console.capture() as captured:
            console.print(table)
        shown = [name for name in names if name in captured.get()]
        wanted = names if labels == 20 else [name for name, n in zip(names, rows, strict=True) if n >= 20]
        assert shown == wanted
        assert ("… 40 more" in captured.get()) is (labels == 60)
