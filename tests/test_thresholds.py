"""Thresholds on rows they were not tuned on, with few rows, rare labels and none at all."""
# tests are told by their names

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import MetricState
from rayclf.thresholds import tune_thresholds


def space_of(kind, size):
    return LabelSpace(tuple(f"label {i}" for i in range(size)), kind)


def world(seed, labels=20, shift=0.5):
    """Draws of probabilities and targets of a task with rare labels; labels are off by a constant logit each."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.3, 0.005, labels)
    spread, off = rng.uniform(1, 3, labels), rng.normal(0, shift, labels)
    bias = np.log(shares / (1 - shares)) - 0.7 * spread

    def draw(rows):
        z = rng.normal(size=(rows, labels)) * spread + bias
        targets = (rng.random(z.shape) < 1 / (1 + np.exp(-z))).astype(np.float32)
        return (1 / (1 + np.exp(-z - off))).astype(np.float32), targets

    return draw


def tuned(space, probabilities, targets):
    state = MetricState(space, np.full(len(space), 0.5, np.float32))
    state.update(probabilities, targets)
    return tune_thresholds(state)


def gain(space, draw, rows, metric="f1_macro"):
    """What thresholds tuned on so many rows add to the metric on 4,000 others."""
    thresholds = tuned(space, *draw(rows))
    assert thresholds.dtype == np.float32
    assert ((thresholds > 0) & (thresholds < 1)).all()
    fresh, values = draw(4000), []
    for choice in (thresholds, np.full(len(space), 0.5, np.float32)):
        state = MetricState(space, choice)
        state.update(*fresh)
        values.append(state.compute()[metric])
    return values[0] - values[1]


@pytest.mark.parametrize("rows", [200, 1500])
def test_tuned_thresholds_raise_macro_f1_on_fresh_rows(rows):
    space = space_of(ProblemType.MULTILABEL, 20)
    gains = [gain(space, world(seed), rows) for seed in range(6)]
    assert min(gains) > 0.02
    assert np.mean(gains) > 0.08


def test_thresholds_of_15_rows_do_no_harm():
    space = space_of(ProblemType.MULTILABEL, 20)
    gains = [gain(space, world(seed), 15) for seed in range(8)]
    assert min(gains) > -0.02
    assert np.mean(gains) > 0


@pytest.mark.parametrize(("share", "rows", "least"), [(0.05, 1000, 0.02), (0.2, 1000, 0.0), (0.5, 40, -0.01)])
def test_binary_thresholds_on_fresh_rows(share, rows, least):
    space = space_of(ProblemType.BINARY, 1)

    def task(seed):
        rng = np.random.default_rng(seed)

        def draw(count):
            z = rng.normal(size=(count, 1)) * 2 + np.log(share / (1 - share))
            p = (1 / (1 + np.exp(-z))).astype(np.float32)
            return p, (rng.random(p.shape) < p).astype(np.float32)

        return draw

    assert np.mean([gain(space, task(seed), rows) for seed in range(8)]) > least


def test_a_rare_label_takes_the_pooled_threshold_and_a_frequent_one_its_own():
    rng = np.random.default_rng(0)
    space = space_of(ProblemType.MULTILABEL, 4)
    targets = (rng.random((2000, 4)) < [0.3, 0.3, 0.3, 0]).astype(np.float32)
    # Where each label parts its rows: 0.2 for two of them, 0.8 for the third; nothing is known of the fourth.
    parting = np.asarray([0.2, 0.2, 0.8, 0.5])
    p = (parting + np.where(targets == 1, 1, -1) * rng.uniform(0.02, 0.15, targets.shape)).astype(np.float32)
    targets[:, 3] = np.nan
    thresholds = tuned(space, p, targets)
    assert thresholds == pytest.approx([0.2, 0.2, 0.8, 0.2], abs=0.03)


def test_ties_go_to_the_middle_or_to_one_half():
    space = space_of(ProblemType.MULTILABEL, 1)
    targets = np.asarray([[0.0], [1.0]] * 20, np.float32)
    at = lambda low, high: tuned(space, np.asarray([[low], [high]] * 20, np.float32), targets)[0]  # noqa: E731
    assert at(0.1, 0.3) == pytest.approx(0.2, abs=0.01)
    assert at(0.7, 0.9) == pytest.approx(0.8, abs=0.01)
    assert at(0.4, 0.9) == 0.5
    assert at(0.1, 0.6) == 0.5


@pytest.mark.parametrize("kind", [ProblemType.BINARY, ProblemType.MULTILABEL])
def test_thresholds_stay_where_there_is_nothing_to_learn_from(kind):
    space = space_of(kind, 1 if kind is ProblemType.BINARY else 3)
    shape = (40, len(space))
    p = np.random.default_rng(0).random(shape).astype(np.float32)
    few = np.zeros(shape, np.float32)
    few[:9, 0] = 1
    for targets in (np.zeros(shape), np.ones(shape), np.full(shape, np.nan), few):
        assert (tuned(space, p, targets.astype(np.float32)) == 0.5).all()
    assert (tuned(space, p[:0], few[:0]) == 0.5).all()


def test_multiclass_has_no_thresholds():
    space = space_of(ProblemType.MULTICLASS, 5)
    targets = np.eye(5, dtype=np.float32).repeat(20, axis=0)
    assert tuned(space, np.full(targets.shape, 0.2, np.float32), targets).tolist() == [0.0] * 5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200), st.integers(1, 6), st.floats(0.05, 5))
def test_thresholds_of_any_rows_are_probabilities(seed, rows, labels, scale):

    rng = np.random.default_rng(seed)
    space = space_of(ProblemType.MULTILABEL, labels)
    targets = (rng.random((rows, labels)) < 0.3).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    p = space.probabilities((rng.normal(size=targets.shape) * scale).astype(np.float32))
    thresholds = tuned(space, p, targets)
    assert thresholds.shape == (labels,)
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_25000_labels():
    labels, rows = 25_000, 60
    space = space_of(ProblemType.MULTILABEL, labels)
    rng = np.random.default_rng(0)
    targets = np.zeros((rows, labels), np.float32)
    targets[np.arange(rows), rng.integers(0, 40, rows)] = 1
    logits = (rng.normal(size=targets.shape) - 5 + 4 * targets).astype(np.float32)
    thresholds = tuned(space, space.probabilities(logits), targets)
    assert thresholds.shape == (labels,)
    assert 0 < thresholds.max() < 0.9
