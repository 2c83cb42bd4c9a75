"""Bootstrap intervals: the definitions of MetricState, draws as of rows, and the coverage they promise."""
# tests are told by their names

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rayclf.bootstrap import Outcomes
from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import METRICS, MetricState, metrics_of

KINDS = list(ProblemType)
AVERAGED = [f"{name}_{mean}" for name in ("precision", "recall", "f1") for mean in ("macro", "micro", "weighted")]
EXACT = {
    ProblemType.BINARY: ["accuracy", "balanced_accuracy", "mcc", "log_loss", *AVERAGED],
    ProblemType.MULTICLASS: ["accuracy", "balanced_accuracy", "mcc", "log_loss", *AVERAGED],
    ProblemType.MULTILABEL: ["accuracy", "subset_accuracy", "hamming_loss", "mcc", "log_loss", *AVERAGED],
}


def space_of(kind, size=4):
    return LabelSpace(tuple(f"label {i}" for i in range(1 if kind is ProblemType.BINARY else size)), kind)


def sample(space, rows=300, seed=0, unknown=0.0, skill=1.5):
    rng = np.random.default_rng(seed)
    shape = (rows, len(space))
    if space.problem_type is ProblemType.MULTICLASS:
        targets = np.eye(len(space), dtype=np.float32)[rng.integers(len(space), size=rows)]
        logits = rng.normal(size=shape) + skill * targets
        targets[rng.random(rows) < unknown] = np.nan
    else:
        targets = (rng.random(shape) < 0.3).astype(np.float32)
        logits = rng.normal(size=shape) + skill * (2 * targets - 1)
        targets[rng.random(shape) < unknown] = np.nan
    return space.probabilities(logits.astype(np.float32)), targets


def fill(kind_of_state, space, probabilities, targets):
    state = kind_of_state(space, np.full(len(space), 0.5, np.float32))
    state.update(probabilities, targets)
    return state


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 60), st.integers(2, 7), st.sampled_from([0.0, 0.3]), st.integers(0, 999))
def test_the_rows_themselves_give_what_metric_state_computes(kind, rows, size, unknown, seed):
    space = space_of(kind, size)
    p, targets = sample(space, rows, seed, unknown)
    outcomes, found = fill(Outcomes, space, p, targets), fill(MetricState, space, p, targets).compute()
    for metric in EXACT[kind] if outcomes.patterns else ():
        value = outcomes.value(metric)
        if np.isnan(found[metric]):
            assert metric.endswith("weighted"), metric  # no label is true
        else:
            assert value == pytest.approx(found[metric], abs=1e-9), metric


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_are_those_of_rows_drawn_with_replacement(kind):
    space = space_of(kind)
    p, targets = sample(space, 150, unknown=0.2)
    outcomes, rng = fill(Outcomes, space, p, targets), np.random.default_rng(1)
    judged = np.flatnonzero(~np.isnan(targets).all(axis=1))
    drawn = []
    for _ in range(250):
        rows = rng.choice(judged, len(judged))
        drawn.append(fill(MetricState, space, p[rows], targets[rows]).compute())
    for metric in EXACT[kind]:
        low, high = outcomes.confidence_interval(metric, 2000)
        expected = np.quantile([found[metric] for found in drawn], [0.025, 0.975])
        assert [low, high] == pytest.approx(expected, abs=0.25 * (high - low)), metric
        assert low < outcomes.value(metric) < high


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_has_an_interval_or_none(kind):
    space = space_of(kind)
    outcomes = fill(Outcomes, space, *sample(space, 50))
    assert set(EXACT[kind]) <= set(metrics_of(space))
    for metric in (*METRICS, "my_metrics.py:function"):
        assert (outcomes.confidence_interval(metric, 20) is not None) == (metric in EXACT[kind]), metric
        assert (outcomes.value(metric) is not None) == (metric in EXACT[kind]), metric


@pytest.mark.parametrize("kind", KINDS)
def test_workers_and_order_change_nothing(kind):
    space = space_of(kind)
    p, targets = sample(space, 100, unknown=0.1)
    whole = fill(Outcomes, space, p, targets)
    merged = fill(Outcomes, space, p[:0], targets[:0])
    for rank in (2, 0, 1):
        merged.merge(fill(Outcomes, space, p[rank::3], targets[rank::3]))
    for metric in ("accuracy", "f1_macro", "log_loss"):
        expected = whole.confidence_interval(metric, 200, seed=5)
        assert merged.confidence_interval(metric, 200, seed=5) == pytest.approx(expected, abs=1e-12)
        assert whole.confidence_interval(metric, 200, seed=5) == expected
        assert whole.confidence_interval(metric, 200, seed=6) != expected


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_judge_has_no_interval(kind):
    space = space_of(kind)
    p, targets = sample(space, 10)
    assert fill(Outcomes, space, p[:0], targets[:0]).confidence_interval("accuracy") is None
    assert fill(Outcomes, space, p, targets * np.nan).confidence_interval("accuracy") is None
    assert fill(Outcomes, space, p, targets).confidence_interval("accuracy", resamples=0) is None


def test_no_label_true_or_answered():
    space = space_of(ProblemType.MULTILABEL)
    p, targets = np.full((5, 4), 0.1, np.float32), np.zeros((5, 4), np.float32)
    outcomes = fill(Outcomes, space, p, targets)
    assert outcomes.confidence_interval("f1_macro", 10) == (0.0, 0.0)
    assert outcomes.confidence_interval("accuracy", 10) == pytest.approx((0.025 ** (1 / 5), 1.0))
    assert outcomes.confidence_interval("mcc", 10) == (0.0, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("right", [True, False])
def test_few_rows_all_right_or_all_wrong_promise_little(kind, right):
    space = space_of(kind)
    _, targets = sample(space, 25)
    guessed = targets if right else np.roll(targets, 1, axis=1) if kind is ProblemType.MULTICLASS else 1 - targets
    outcomes = fill(Outcomes, space, guessed, targets)
    expected = stats.binomtest(25 if right else 0, 25).proportion_ci(0.95, "exact")
    for metric in ("accuracy", "f1_macro", "mcc"):
        found = outcomes.described(metric)["interval"]
        assert (found["low"], found["high"]) == pytest.approx(tuple(expected)), metric
        assert found["metric"] == ("subset_accuracy" if kind is ProblemType.MULTILABEL else "accuracy")
    assert outcomes.described("log_loss")["interval"]["metric"] == "log_loss"
    assert outcomes.described("roc_auc") == {}


def test_thresholds_decide():
    space = space_of(ProblemType.MULTILABEL, 2)
    outcomes = Outcomes(space, np.asarray([0.2, 0.8], np.float32))
    outcomes.update(np.asarray([[0.3, 0.7]], np.float32), np.asarray([[1, 0]], np.float32))
    assert outcomes.value("accuracy") == 1.0


@pytest.mark.parametrize(
    ("kind", "metric"), [(ProblemType.MULTICLASS, "accuracy"), (ProblemType.MULTILABEL, "f1_micro")]
)
def test_coverage(kind, metric):
    """The interval of 300 rows holds what many rows show in about 95 of 100 cases."""
    space = space_of(kind)
    truth = fill(MetricState, space, *sample(space, 60_000, seed=1)).compute()[metric]
    hits = 0
    for seed in range(150):
        low, high = fill(Outcomes, space, *sample(space, 300, seed=seed + 10)).confidence_interval(metric, 300, seed)
        hits += low <= truth <= high
    assert 0.9 <= hits / 150 <= 0.99


def test_few_patterns_stand_for_many_rows():
    space = space_of(ProblemType.MULTICLASS, 5)
    outcomes = fill(Outcomes, space, *sample(space, 20_000))
    assert len(outcomes.patterns) <= 25
    low, high = outcomes.confidence_interval("f1_macro")
    assert 0.01 < high - low < 0.02


def test_25000_labels():
    space = space_of(ProblemType.MULTILABEL, 25_000)
    rng = np.random.default_rng(0)
    targets = np.zeros((100, 25_000), np.float32)
    targets[np.arange(100), rng.integers(0, 25_000, 100)] = 1
    p = np.where(rng.random(targets.shape) < 1e-4, 0.9, 0.01).astype(np.float32)
    outcomes = fill(Outcomes, space, p, targets)
    found = fill(MetricState, space, p, targets).compute()
    for metric in ("f1_macro", "hamming_loss"):
        assert outcomes.value(metric) == pytest.approx(found[metric])
        low, high = outcomes.confidence_interval(metric, 200)
        assert low <= found[metric] <= high
    assert sum(map(len, outcomes.patterns)) < 10_000
