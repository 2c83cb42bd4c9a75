"""The parts of a report, each by what it says of what a run left."""

from __future__ import annotations

from typing import Any

import pytest
from fake_run import evaluation, measure
from hypothesis import given, settings
from hypothesis import strategies as st

from rayclf.charts import Chart, Heatmap, LineChart
from rayclf.labels import LabelSpace, ProblemType
from rayclf.training.report import curves as report_curves
from rayclf.training.report import facts as report_facts
from rayclf.training.report import metrics as report_metrics
from rayclf.training.report import tables as report_tables
from rayclf.training.report.curves import smooth, unlike_cross_entropy
from rayclf.training.report.tables import confusion_matrix

SPACE = LabelSpace(("a", "b", "c"), ProblemType.MULTICLASS)


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"kind": "step", "step": number, "epoch": 1, "loss": 1.0, "rows": 32, **fields}


def lines(found: list[str | Chart], name: str) -> LineChart:
    return next(one for one in found if isinstance(one, LineChart) and one.name == name)


# --- metrics ---------------------------------------------------------------------------------------------------------


def test_a_step_that_was_trained_twice_counts_once() -> None:
    events = [step(1), step(2, loss=5.0), step(3, loss=5.0), step(2, loss=2.0), step(3, loss=3.0)]
    assert [event["loss"] for event in report_metrics.steps(events)] == [1.0, 2.0, 3.0]


def test_parts_come_from_the_artifact_and_else_from_the_events() -> None:
    events = [evaluation(at, "validation", {"accuracy": value}) for at, value in ((0, 0.1), (5, 0.5), (9, 0.4))]
    events.append(evaluation(9, "train", {"accuracy": 0.9}))
    found = report_metrics.parts(events, {"metrics": {"validation": {"accuracy": 0.55}, "test": {"accuracy": 0.45}}})
    assert {part: one["accuracy"] for part, one in found.items()} == {
        "baseline": 0.1, "validation": 0.55, "train": 0.9, "test": 0.45,
    }  # fmt: skip
    assert list(found) == ["baseline", "validation", "train", "test"]
    assert report_metrics.judged(events, {})[0] == "validation"


def test_the_head_alone_is_a_part_of_its_own() -> None:
    events = [
        evaluation(0, "validation", {"accuracy": 0.1}),
        evaluation(0, "validation", {"accuracy": 0.3, "head": True}),
        evaluation(5, "validation", {"accuracy": 0.5}),
    ]
    found = report_metrics.parts(events, {})
    assert {part: one["accuracy"] for part, one in found.items()} == {
        "baseline": 0.1, "head": 0.3, "validation": 0.5,
    }  # fmt: skip
    assert report_metrics.curve(report_metrics.watched(events)[1], "accuracy") == [(0, 0.1), (0, 0.3), (5, 0.5)]
    assert "head" not in report_metrics.flat(events[1])


def test_without_validation_rows_the_baseline_is_of_the_test() -> None:
    events = [evaluation(0, "test", {"accuracy": 0.1}), evaluation(9, "test", {"accuracy": 0.5})]
    assert report_metrics.watched(events)[0] == "test"
    found = report_metrics.parts(events, {})
    assert {part: one["accuracy"] for part, one in found.items()} == {"baseline": 0.1, "test": 0.5}


def test_a_curve_has_what_was_measured_while_training() -> None:
    """The last evaluation is of calibrated probabilities: beside the others it would look like a leap."""
    events = [evaluation(at, "validation", {"log_loss": value}) for at, value in ((0, 1.1), (5, 1.0))]
    events += [{**evaluation(5, part, {"log_loss": 0.2}), "final": True} for part in ("validation", "train")]
    found = lines(list(report_curves.training([step(5), *events], {})), "Loss")
    assert found.lines["validation log loss"] == [(0, 1.1), (5, 1.0)]
    assert [event["log_loss"] for event in report_metrics.evaluations(events, "train")] == [0.2]


def test_metrics_have_names_for_persons() -> None:
    names = {"roc_auc": "ROC-AUC", "uncalibrated roc_auc": "uncalibrated ROC-AUC", "f1_macro": "F1 macro"}
    assert {name: report_metrics.words(name) for name in names} == names
    assert report_metrics.words("uncalibrated ndcg_at_5") == "uncalibrated nDCG at 5"


def test_overfitting_is_said_where_it_is() -> None:
    def told(seen: float) -> str:
        measured = {"train": {"f1_macro": seen, "rows": 9}, "test": {"f1_macro": 0.6, "rows": 9}}
        return " ".join(map(str, report_tables.metrics([], {"metrics": measured}, {})))

    assert "0.3000 lower: what it has seen it knows much better, which is overfitting" in told(0.9)
    assert "overfitting" not in told(0.6)
    assert "0.1000 higher" in told(0.5)
    for high, certain in ((0.85, True), (0.95, False)):  # what the intervals of few rows share may be chance
        measured = {
            part: {"f1_macro": value, "interval": {"metric": "f1_macro", "low": low, "high": top, "level": 0.9}}
            for part, value, low, top in (("train", 1.0, 0.9, 1.0), ("test", 0.8, 0.7, high))
        }
        found = " ".join(map(str, report_tables.metrics([], {"metrics": measured}, {})))
        assert ("overfitting" in found) is certain
    losses = {"train": {"log_loss": 0.2, "rows": 9}, "test": {"log_loss": 0.9, "rows": 9}}
    found = " ".join(map(str, report_tables.metrics([], {"metrics": losses}, {"train": {"metric": "log_loss"}})))
    assert "0.7000 higher: what it has seen it knows much better" in found


def test_a_run_with_a_baseline_alone_has_its_metrics() -> None:
    told = " ".join(map(str, report_tables.metrics([evaluation(0, "validation", {"accuracy": 0.25})], {}, {})))
    assert "before training" in told


def test_what_the_most_frequent_label_would_reach_is_told() -> None:
    counts = [{"label": "a", "support": 3}, {"label": "b", "support": 6}, {"label": "c", "support": 0}]
    measured = {"test": {"f1_macro": 0.6, "rows": 9, "per_label": counts}}
    told = "answering b always would be right on 0.6667 of the test rows"
    for problem_type in (ProblemType.MULTICLASS, ProblemType.MULTILABEL):
        info = {"metrics": measured, "label_space": LabelSpace(("a", "b", "c"), problem_type).to_json()}
        found = " ".join(map(str, report_tables.metrics([], info, {})))
        assert (told in found) is (problem_type is ProblemType.MULTICLASS)


def test_flat_metrics() -> None:
    given = {"step": 3, "accuracy": 0.5, "per_label": [], "interval": {"low": 1}, "own": {"mine": 1.0}, "k": {"5": 2}}
    assert report_metrics.flat(given) == {"accuracy": 0.5, "mine": 1.0, "k 5": 2}
    assert report_metrics.flat({"accuracy": 0.5, "own": {"accuracy": 0.1}}) == {"accuracy": 0.5, "own accuracy": 0.1}


# --- facts -----------------------------------------------------------------------------------------------------------


def test_facts() -> None:
    events = [step(1, time=100.0, rows_per_second=10.0), step(2, time=3825.0, rows_per_second=64.0)]
    info = {"label_space": SPACE.to_json(), "tuning": "lora", "max_length": 128, "created": "now"}
    status = {"rows": {"train": 12000}, "read": 9, "quarantined": 4, "strategy": "deepspeed-zero2", "resumed": 2}
    config = {
        "model": {"method": "qlora", "quantization": "int8", "lora": {"r": 8}},
        "train": {"strategy": "auto", "learning_rate": 1e-4},
        "resources": {"workers": [1, 8]},
    }
    hints = {"hints": ["all 2 test rows hold '<b>'"]}
    (told,) = report_facts.facts(events, info, status | {"early_stopped": True} | hints, config)
    for words in (
        "3, multiclass", "train 12,000", "read 9 = 5 kept + 4 quarantined", "qlora, int8, rank 8, 128 tokens",
        "strategy deepspeed-zero2, workers 1 to 8, learning rate 0.0001", "1 h 2 min, 64.0 training rows a second",
        "<td>yes</td>", "2 time(s)", "look at this", "all 2 test rows hold &#x27;&lt;b&gt;&#x27;",
    ):  # fmt: skip
        assert words in told


# --- curves ----------------------------------------------------------------------------------------------------------


def test_smooth_is_a_mean_that_follows() -> None:
    assert [y for _, y in smooth([(0, 4.0), (1, 4.0), (2, 4.0)])] == pytest.approx([4.0, 4.0, 4.0])
    last = smooth([(i, float(i > 50)) for i in range(100)])[-1][1]
    assert 0.99 < last < 1


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 99), st.none() | st.floats(-1e6, 1e6))))
def test_smooth_stays_within_what_it_smooths(points: list[tuple[float, float | None]]) -> None:
    known = [(x, y) for x, y in points if y is not None]
    found = smooth(points)
    assert [x for x, _ in found] == [x for x, _ in known]
    for count, (_, y) in enumerate(found, 1):
        values = [value for _, value in known[:count]]
        assert min(values) - 1e-3 <= y <= max(values) + 1e-3


def test_the_legend_says_which_loss_it_is() -> None:
    assert unlike_cross_entropy({"loss": "auto", "class_weights": "none", "label_smoothing": 0.0}) == []
    odd = {"loss": "focal", "class_weights": {"a": 2.0}, "label_smoothing": 0.1}
    assert unlike_cross_entropy(odd) == ["focal loss", "class weights", "label smoothing 0.1"]
    events = [step(1), evaluation(1, "validation", {"log_loss": 0.5})]
    found = list(report_curves.training(events, {"train": odd}))
    name = "training, smoothed (focal loss, class weights, label smoothing 0.1)"
    assert list(lines(found, "Loss").series) == ["training", name, "validation log loss"]
    assert any(isinstance(one, str) and "not the plain cross-entropy" in one for one in found)
    plain = list(report_curves.training(events, {}))
    assert list(lines(plain, "Loss").series) == ["training", "training, smoothed", "validation log loss"]


def test_the_chosen_metric_is_drawn_and_an_own_one_apart() -> None:
    events = [
        evaluation(at, "validation", {"accuracy": 0.5, "f1_macro": 0.4, "mcc": 0.1, "own": {"money": 250.0 + at}})
        for at in (0, 5)
    ]
    found = list(report_curves.validation(events, {"train": {"metric": "mcc"}}))
    assert list(lines(found, "Metrics").series) == ["accuracy", "F1 macro", "MCC"]
    assert list(lines(found, "Metric money").series["money"]) == [(0, 250.0), (5, 255.0)]
    assert any(isinstance(one, str) and "step 0 is before training" in one for one in found)
    chosen = list(report_curves.validation(events, {"train": {"metric": "money"}}))
    assert [one.name for one in chosen if isinstance(one, LineChart)] == ["Metrics", "Metric money"]
    assert list(report_curves.validation([], {})) == []


def test_curves_of_decisions() -> None:
    found = {
        "roc": [{"label": "a", "points": [[0, 0], [0.1, 0.8], [1, 1]]}],
        "pr": [{"label": "a", "points": [[0, 1], [0.5, 0.8], [1, 0.6]]}],
        "thresholds": [{"label": "a", "chosen": 0.33, "points": [[0.2, 0.5], [0.3, 0.9], [0.6, 0.4]]}],
        "reliability": [[0.9, 0.88, 10], [0.1, 0.0, 0]],
        "reliability_before": [[0.9, 0.7, 10]],
    }
    charts = list(report_curves.decisions(found, {"temperature": 1.5, "metrics": {"test": {"ece": 0.02}}}))
    assert lines(charts, "ROC curves").reference == ["a guess"]
    steps = [(0, 1), (0, 0.8), (0.5, 0.8), (0.5, 0.6), (1, 0.6)]
    assert lines(charts, "Precision-recall curves").lines["a"] == steps
    assert lines(charts, "F1 by threshold").marks == {"a": (0.3, 0.9)}
    assert lines(charts, "Calibration").lines["after calibration"] == [(0.9, 0.88)]
    assert any(isinstance(one, str) and "temperature 1.5" in one and "test 0.0200" in one for one in charts)
    assert list(report_curves.decisions({}, {})) == []


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_interval_stands_beside_its_metric_and_overfitting_is_told() -> None:
    interval = {"metric": "f1_macro", "low": 0.7, "high": 0.9, "level": 0.9}
    info = {
        "metrics": {"train": {"f1_macro": 0.95, "accuracy": 0.96}, "test": {"f1_macro": 0.8, "interval": interval}},
    }
    told = "".join(one for one in report_tables.metrics([], info, {}) if isinstance(one, str))
    assert "0.8000 (0.7000–0.9000)" in told
    assert "the 90% confidence interval" in told
    assert "0.9500 on training rows and 0.8000 on test rows, 0.1500 lower" in told
    assert "low" not in told.replace("below", "").replace("lower", "")


def test_labels_have_thresholds_where_these_decide() -> None:
    for problem_type, shown in ((ProblemType.MULTILABEL, True), (ProblemType.MULTICLASS, False)):
        space = LabelSpace(("a", "b"), problem_type)
        info = {
            "label_space": space.to_json(),
            "thresholds": [0.25, 0.75],
            "metrics": {"test": measure(space, 1.0, rows=50)},
        }
        told = "".join(one for one in report_tables.labels([], info) if isinstance(one, str))
        assert ("<td>0.7500</td>" in told) is shown
        assert ("<th>threshold</th>" in told) is shown
        assert "<th>PR-AUC</th>" in told or "<th>ROC-AUC</th>" in told


SQUARES = st.integers(2, 6).flatmap(
    lambda size: st.lists(st.lists(st.integers(0, 9), min_size=size, max_size=size), min_size=size, max_size=size)
)


@settings(deadline=None, derandomize=True)
@given(SQUARES, st.integers(0, 40))
def test_a_confusion_matrix_is_that_of_the_answers(counts: list[list[int]], told: int) -> None:
    """All cells when every confusion is told; what is not told is counted, and never guessed."""
    names = [f"label {i}" for i in range(len(counts))]
    rows = [
        {"label": name, "support": sum(line), "recall": line[i] / sum(line) if sum(line) else 0.0}
        for i, (name, line) in enumerate(zip(names, counts, strict=True))
    ]
    cells = [(n, i, j) for i, line in enumerate(counts) for j, n in enumerate(line) if i != j and n]
    pairs = [{"actual": names[i], "predicted": names[j], "rows": n} for n, i, j in sorted(cells, reverse=True)[:told]]
    chart, left = confusion_matrix(rows, pairs)
    known = sum(int(cell or 0) for line in chart.values for cell in line)
    assert known + left == sum(map(sum, counts))
    for i, line in enumerate(chart.values):
        for j, cell in enumerate(line):
            assert cell in (None, counts[i][j])
    if told >= len(cells) or len(names) == 2:
        assert left == 0
        assert [list(line) for line in chart.values] == counts


def test_confusions_of_large_label_spaces_are_a_table() -> None:
    space = LabelSpace(tuple(f"label {n}" for n in range(21)), ProblemType.MULTICLASS)
    found = list(
        report_tables.confusions([], {"label_space": space.to_json(), "metrics": {"test": measure(space, 1.0)}})
    )
    assert not any(isinstance(one, Heatmap) for one in found)
    assert any(isinstance(one, str) and "<th>predicted</th>" in one for one in found)
