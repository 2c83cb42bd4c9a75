"""Rank metrics against scikit-learn and against sums over all orders of tied labels."""
# tests are told by their names

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics.ranking import RankState, rank_metrics


def space_of(kind, size):
    return LabelSpace(tuple(f"label {i}" for i in range(size)), kind)


def counted(space, scores, targets):
    state = RankState(space)
    state.update(scores, targets == 1, ~np.isnan(targets))
    return state.compute()


def sample(rows, size, seed=0, levels=None):
    """Scores from 0 to 1, of so many values only where ``levels`` says, and targets with a true label in each row."""
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, size)) if levels is None else rng.integers(0, levels, (rows, size)) / levels
    targets = (rng.random((rows, size)) < 0.25).astype(np.float32)
    targets[np.arange(rows), rng.integers(size, size=rows)] = 1
    return scores.astype(np.float32), targets


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("size", [2, 6, 40])
def test_against_scikit_learn(size, levels):
    scores, targets = sample(200, size, levels=levels)
    found = counted(space_of(ProblemType.MULTILABEL, size), scores, targets)
    assert found["lrap"] == pytest.approx(sk.label_ranking_average_precision_score(targets, scores))
    for k in (5, 10):
        if k <= size:
            assert found[f"ndcg_at_{k}"] == pytest.approx(sk.ndcg_score(targets, scores, k=k))


def test_precision_at_k_is_the_share_of_true_labels_among_the_best():
    scores, targets = sample(200, 12)
    found = counted(space_of(ProblemType.MULTILABEL, 12), scores, targets)
    best = np.take_along_axis(targets, np.argsort(-scores, axis=1), axis=1)
    for k in (1, 3, 5):
        assert found[f"precision_at_{k}"] == pytest.approx(best[:, :k].mean())


def test_labels_of_one_score_share_their_places():
    """The mean over many random orders of tied labels, not what the order of the labels happens to give."""
    scores, targets = sample(50, 8, levels=3)
    space, rng = space_of(ProblemType.MULTILABEL, 8), np.random.default_rng(0)
    found = counted(space, scores, targets)
    order = [counted(space, scores + rng.random(scores.shape).astype(np.float32) * 1e-3, targets) for _ in range(400)]
    for name in ("precision_at_1", "precision_at_3", "ndcg_at_5"):
        assert found[name] == pytest.approx(np.mean([other[name] for other in order]), abs=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(2, 12), st.sampled_from([None, 3]), st.integers(0, 999))
def test_unknown_labels_take_no_place(rows, size, levels, seed):
    scores, targets = sample(rows, size, seed, levels)
    rng = np.random.default_rng(seed)
    targets[rng.random(targets.shape) < 0.4] = np.nan
    found = counted(space_of(ProblemType.MULTILABEL, size), scores, targets)
    kept = [(t, s, ~np.isnan(t)) for t, s in zip(targets, scores, strict=True) if (t == 1).any()]
    if not kept:
        assert math.isnan(found["lrap"])
        return
    expected = [sk.label_ranking_average_precision_score([t[known]], [s[known]]) for t, s, known in kept]
    assert found["lrap"] == pytest.approx(np.mean(expected))
    for k in (5, 10):
        if k <= size:
            gains = [sk.ndcg_score([t[m]], [s[m]], k=k) if m.sum() > 1 else 1.0 for t, s, m in kept]
            assert found[f"ndcg_at_{k}"] == pytest.approx(np.mean(gains))


def test_rows_without_a_true_label_are_not_ranked():
    scores, targets = sample(40, 6)
    space = space_of(ProblemType.MULTILABEL, 6)
    expected = counted(space, scores[20:], targets[20:])
    targets[:10] = 0
    targets[10:20] = np.nan
    assert counted(space, scores, targets) == pytest.approx(expected)
    assert all(math.isnan(value) for value in counted(space, scores[:20], targets[:20]).values())


@pytest.mark.parametrize("size", [11, 77])
def test_accuracy_at_5_against_scikit_learn(size):
    scores, _ = sample(300, size)
    truth = np.random.default_rng(1).integers(size, size=300)
    found = counted(space_of(ProblemType.MULTICLASS, size), scores, np.eye(size, dtype=np.float32)[truth])
    assert found == {"accuracy_at_5": pytest.approx(sk.top_k_accuracy_score(truth, scores, k=5, labels=range(size)))}


def test_merged_parts_are_the_whole():
    scores, targets = sample(90, 15)
    space = space_of(ProblemType.MULTILABEL, 15)
    total = RankState(space)
    for start, end in ((0, 1), (1, 1), (1, 60), (60, 90)):
        part = RankState(space)
        part.update(scores[start:end], targets[start:end] == 1, ~np.isnan(targets[start:end]))
        total.merge(part)
    assert total.compute() == pytest.approx(counted(space, scores, targets))
    assert total.rows == 90


def test_what_a_label_space_reports():
    assert rank_metrics(space_of(ProblemType.BINARY, 1)) == ()
    assert rank_metrics(space_of(ProblemType.MULTICLASS, 10)) == ()
    assert rank_metrics(space_of(ProblemType.MULTICLASS, 11)) == ("accuracy_at_5",)
    assert rank_metrics(space_of(ProblemType.MULTILABEL, 1)) == ()
    assert rank_metrics(space_of(ProblemType.MULTILABEL, 4)) == ("lrap", "precision_at_1", "precision_at_3")
    assert set(rank_metrics(space_of(ProblemType.MULTILABEL, 10))) >= {"ndcg_at_5", "ndcg_at_10", "precision_at_5"}
