"""Weights of the labels in the loss: rare labels count for more, so that common ones do not drown them.

A weight belongs to one side of a label: ``positive`` weighs the targets that are 1, ``negative`` those that are 0.
Unknown targets have no loss and so no weight. How the loss is averaged is said in :mod:`rayclf.training.step`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rayclf.errors import LabelError
from rayclf.labels import LabelSpace, ProblemType

Choice = Literal["none", "auto", "balanced"] | Mapping[str, float]
Weights = npt.NDArray[np.float64]
_FLOAT32 = np.finfo(np.float32)


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class LabelCounts:
    """How often each label holds (``positive``, int64 ``[K]``) and is unknown (``unknown``) in ``rows`` rows."""

    rows: int
    positive: npt.NDArray[np.int64]
    unknown: npt.NDArray[np.int64]

    @property
    def negative(self) -> npt.NDArray[np.int64]:
        """Rows in which a label is known not to hold, ``[K]``."""
        return self.rows - self.positive - self.unknown


@dataclass(frozen=True, eq=False)
class LabelWeights:
    """Weight of a target that is 1 (``positive``, float32 ``[K]``) and of one that is 0 (``negative``).

    Multiclass uses ``positive`` alone: the weight of the row's class.
    """

    positive: npt.NDArray[np.float32]
    negative: npt.NDArray[np.float32]


def label_weights(choice: Choice, counts: LabelCounts, space: LabelSpace) -> LabelWeights | None:
    """The weights that ``train.class_weights`` asks for; None for ``none``.

    ============  ==========================================  ======================================================
    problem type  ``balanced``                                ``auto``
    ============  ==========================================  ======================================================
    multiclass    rows / (classes x rows of the class),       1 / rows of the class, scaled to mean 1 over the
                  scikit-learn's ``compute_class_weight``     classes, as QLoRA classifiers are commonly trained
    binary        negatives / positives for a 1, 1 for a 0,   1 / positives for a 1 and 1 / negatives for a 0,
                  PyTorch's advice for ``pos_weight``         scaled to mean 1: two classes of a multiclass task
    multilabel    the same, each label by itself              1 / positives for a 1, scaled to mean 1 over the
                                                              labels; 1 for a 0
    ============  ==========================================  ======================================================

    So ``balanced`` makes the two sides of each multilabel label equal, and can weigh a rare one by thousands; ``auto``
    makes rare labels equal to common ones and keeps the size of the loss. A label that training never sees to hold
    weighs 1 and is left out of the scaling; so does one that always holds, where its negatives would be counted (its
    weight would be 0, and its targets without loss).

    A mapping gives weights by label name, others weigh 1; in a binary task ``positive`` and ``negative`` name the two
    sides. Raises LabelError for a name that is not a label's, a side named twice, or a weight that is not a positive
    number.
    """
    if choice == "none":
        return None
    ones = np.ones(len(space), dtype=np.float64)
    if isinstance(choice, Mapping):
        positive, negative = _by_name(choice, space)
    elif space.problem_type is ProblemType.MULTICLASS:
        seen = int(np.count_nonzero(counts.positive)) or 1
        balanced = _divide(np.full(len(space), counts.rows / seen), counts.positive)
        positive, negative = balanced if choice == "balanced" else _inverse(counts.positive), ones
    elif choice == "balanced":
        positive, negative = _divide(counts.negative, counts.positive), ones
    elif space.problem_type is ProblemType.BINARY:
        sides = _inverse(np.concatenate([counts.positive, counts.negative]))
        positive, negative = sides[:1], sides[1:]
    else:
        positive, negative = _inverse(counts.positive), ones
    return LabelWeights(positive.astype(np.float32), negative.astype(np.float32))


def prior_logits(counts: LabelCounts, weights: LabelWeights | None) -> npt.NDArray[np.float32]:
    """What logits ``[K]`` of a binary or multilabel task begin with: the log odds of each label, as the loss weighs it.

    Without it the first steps teach the whole backbone no more than that most labels are rare, and a small one can come
    out of them telling no text from another (arXiv:1708.02002, section 4.1). Half a row more on both sides keeps the
    odds of a label that always or never holds finite.
    """
    positive, negative = counts.positive + 0.5, counts.negative + 0.5
    if weights is not None:
        positive, negative = positive * weights.positive, negative * weights.negative
    return np.log(positive / negative).astype(np.float32)


def _inverse(counts: npt.NDArray[np.int64]) -> Weights:
    """1 / count, scaled so that the weights of what was counted have mean 1; what was not weighs 1."""
    seen = counts > 0
    weights = _divide(np.ones(len(counts)), counts)
    return np.where(seen, weights / weights[seen].mean(), 1.0) if seen.any() else weights


def _divide(above: Weights | npt.NDArray[np.int64], below: npt.NDArray[np.int64]) -> Weights:
    """``above / below``; 1 where either is 0."""
    both = (above > 0) & (below > 0)
    return np.where(both, above / np.where(both, below, 1), 1.0)


def _by_name(choice: Mapping[str, float], space: LabelSpace) -> tuple[Weights, Weights]:
    sides = {name: (0, position) for name, position in space.index.items()}
    if space.problem_type is ProblemType.BINARY:
        sides[space.negative] = (1, 0)
        if space.names[0] != "negative":  # of a label of that name, "positive" could mean either side
            sides |= {"positive": (0, 0), "negative": (1, 0)}
    weights: Weights = np.ones((2, len(space)), dtype=np.float64)
    given: dict[tuple[int, int], str] = {}
    for name, weight in choice.items():
        if name not in sides:
            near = difflib.get_close_matches(name, sides, n=1, cutoff=0.5)
            known = ", ".join([*sides][:5]) + (", …" if len(sides) > 5 else "")
            hint = f"did you mean '{near[0]}'?" if near else f"use one of: {known}"
            raise LabelError(f"train.class_weights: no label '{name}'; {hint}")
        side = sides[name]
        if side in given:
            raise LabelError(f"train.class_weights: '{given[side]}' and '{name}' are the same side; give one of them")
        if not _FLOAT32.tiny <= weight <= _FLOAT32.max:
            raise LabelError(f"train.class_weights: '{name}' weighs {weight}; give a positive, finite number")
        given[side] = name
        weights[side] = weight
    return weights[0], weights[1]
