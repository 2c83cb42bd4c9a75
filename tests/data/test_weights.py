"""Label weights: scikit-learn's and PyTorch's own numbers, and nothing odd for labels that are never seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from rayclf.data.weights import LabelCounts, label_weights, prior_logits
from rayclf.errors import LabelError
from rayclf.labels import LabelSpace, ProblemType

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

THREE = ("cat", "dog", "hen")
MULTICLASS = LabelSpace(THREE, ProblemType.MULTICLASS)
MULTILABEL = LabelSpace(THREE, ProblemType.MULTILABEL)
SPAM = LabelSpace(("spam",), ProblemType.BINARY)


def counts(rows: int, positive: list[int], unknown: list[int] | None = None) -> LabelCounts:
    return LabelCounts(rows, np.asarray(positive, np.int64), np.asarray(unknown or [0] * len(positive), np.int64))


def space_of(kind: ProblemType, size: int) -> LabelSpace:
    return LabelSpace(tuple(f"label {i}" for i in range(size)), kind)


@st.composite
def any_counts(draw: st.DrawFn) -> tuple[LabelSpace, LabelCounts]:
    """A space and counts that can occur in it, labels without rows included."""
    kind = draw(st.sampled_from(list(ProblemType)))
    size = 1 if kind is ProblemType.BINARY else draw(st.integers(2, 6))
    number = st.integers(0, 10**9)
    if kind is ProblemType.MULTICLASS:
        positive = draw(st.lists(number, min_size=size, max_size=size))
        return space_of(kind, size), counts(sum(positive), positive)
    rows = draw(number)
    positive = [draw(st.integers(0, rows)) for _ in range(size)]
    return space_of(kind, size), counts(rows, positive, [draw(st.integers(0, rows - held)) for held in positive])


@steady
@given(any_counts(), st.sampled_from(["auto", "balanced"]))
def test_weights_are_positive_numbers_whatever_the_counts(case: tuple[LabelSpace, LabelCounts], choice: str) -> None:
    space, numbers = case
    weights = label_weights(choice, numbers, space)  # type: ignore[arg-type]
    assert weights is not None
    for side in (weights.positive, weights.negative):
        assert (side.shape, side.dtype) == ((len(space),), np.float32)
        assert np.isfinite(side).all()
        assert (side > 0).all()
    assert (weights.positive[numbers.positive == 0] == 1).all()


@steady
@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_balanced_classes_are_those_of_scikit_learn(labels: list[int]) -> None:
    seen = np.unique(labels)
    positive = np.bincount(labels, minlength=4)
    weights = label_weights("balanced", counts(len(labels), [*positive]), space_of(ProblemType.MULTICLASS, 4))
    assert weights is not None
    theirs = compute_class_weight("balanced", classes=seen, y=np.asarray(labels))
    np.testing.assert_allclose(weights.positive[seen], theirs, rtol=1e-6)
    assert (np.delete(weights.positive, seen) == 1).all()


@steady
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=6), st.sampled_from(["multiclass", "multilabel"]))
def test_auto_is_inverse_frequency_of_mean_1(positive: list[int], kind: str) -> None:
    space = space_of(ProblemType(kind), len(positive))
    weights = label_weights("auto", counts(sum(positive), positive), space)
    assert weights is not None
    assert weights.positive.mean() == pytest.approx(1, rel=1e-5)
    shares = weights.positive * np.asarray(positive)
    np.testing.assert_allclose(shares, shares[0], rtol=1e-5)
    assert (weights.negative == 1).all()


def test_a_label_never_seen_does_not_move_the_others() -> None:
    with_hen = label_weights("auto", counts(12, [9, 3, 0]), MULTICLASS)
    assert with_hen is not None
    np.testing.assert_allclose(with_hen.positive, [0.5, 1.5, 1])


def test_balanced_labels_leave_unknown_targets_out() -> None:
    weights = label_weights("balanced", counts(100, [10, 50, 90], [0, 25, 10]), MULTILABEL)
    assert weights is not None
    np.testing.assert_allclose(weights.positive, [9, 0.5, 1])  # "hen" is never known to be missing
    assert weights.negative.tolist() == [1, 1, 1]


def test_binary_weights() -> None:
    numbers = counts(120, [20], [40])  # 60 known negatives
    balanced = label_weights("balanced", numbers, SPAM)
    auto = label_weights("auto", numbers, SPAM)
    assert balanced is not None
    assert auto is not None
    assert (balanced.positive.tolist(), balanced.negative.tolist()) == ([3], [1])
    assert (auto.positive.tolist(), auto.negative.tolist()) == ([1.5], [0.5])


@pytest.mark.parametrize("choice", ["auto", "balanced"])
@pytest.mark.parametrize("positive", [0, 7])
def test_one_sided_binary_data_weighs_1(choice: str, positive: int) -> None:
    weights = label_weights(choice, counts(7, [positive]), SPAM)  # type: ignore[arg-type]
    assert weights is not None
    assert (weights.positive.tolist(), weights.negative.tolist()) == ([1], [1])


def test_none_is_none() -> None:
    assert label_weights("none", counts(3, [1, 1, 1]), MULTICLASS) is None


@pytest.mark.parametrize("space", [MULTICLASS, MULTILABEL])
def test_weights_by_name(space: LabelSpace) -> None:
    weights = label_weights({"hen": 2.5, "cat": 0.25}, counts(0, [0, 0, 0]), space)
    assert weights is not None
    assert weights.positive.tolist() == [0.25, 1, 2.5]
    assert weights.negative.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("label", "choice", "sides"),
    [
        ("spam", {"spam": 3}, (3, 1)),
        ("spam", {"not spam": 3}, (1, 3)),
        ("spam", {"positive": 2, "negative": 3}, (2, 3)),
        ("positive", {"positive": 2, "negative": 3}, (2, 3)),
        ("negative", {"negative": 2, "not negative": 3}, (2, 3)),
        ("spam", {}, (1, 1)),
    ],
)
def test_binary_weights_by_side(label: str, choice: dict[str, float], sides: tuple[float, float]) -> None:
    weights = label_weights(choice, counts(9, [3]), LabelSpace((label,), ProblemType.BINARY))
    assert weights is not None
    assert (weights.positive[0], weights.negative[0]) == sides


@pytest.mark.parametrize(
    ("space", "choice", "message"),
    [
        (MULTICLASS, {"dogs": 2}, r"train\.class_weights: no label 'dogs'; did you mean 'dog'\?"),
        (MULTICLASS, {"xyzzy": 2}, r"no label 'xyzzy'; use one of: cat, dog, hen$"),
        (space_of(ProblemType.MULTILABEL, 9), {"xyzzy": 2}, r"label 4, …$"),
        (MULTICLASS, {"positive": 2}, "no label 'positive'"),
        (LabelSpace(("negative",), ProblemType.BINARY), {"positive": 2}, "no label 'positive'"),
        (SPAM, {"spam": 2, "positive": 2}, "'spam' and 'positive' are the same side"),
        (MULTICLASS, {"dog": 0.0}, "'dog' weighs 0.0; give a positive, finite number"),
        (MULTICLASS, {"dog": -1.0}, "positive, finite"),
        (MULTICLASS, {"dog": float("inf")}, "positive, finite"),
        (MULTICLASS, {"dog": float("nan")}, "positive, finite"),
        (MULTICLASS, {"dog": 1e-60}, "positive, finite"),  # 0 in float32
    ],
)
def test_mistakes_name_the_label(space: LabelSpace, choice: dict[str, float], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        label_weights(choice, counts(9, [3] * len(space)), space)


def test_logits_begin_with_the_log_odds_that_the_loss_sees() -> None:
    seen = counts(10, [2, 0, 10], [1, 0, 0])
    plain = prior_logits(seen, None)
    assert plain.dtype == np.float32
    assert np.allclose(plain, np.log([2.5 / 7.5, 0.5 / 10.5, 10.5 / 0.5]))
    balanced = label_weights("balanced", counts(1000, [10]), SPAM)
    assert abs(prior_logits(counts(1000, [10]), balanced)[0]) < 0.06  # both sides weigh the same
