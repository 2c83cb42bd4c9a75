"""How far up the true labels stand among all labels of a row: LRAP, precision at k, nDCG at k, accuracy at k.

The measures of tasks with many labels (Bhatia et al., the Extreme Classification Repository, 2016). All of them follow
from two numbers of each true label: how many labels score higher, and how many score the same. So nothing is sorted,
and labels of one score share the places they take together, whatever their order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType

PRECISION_AT, NDCG_AT = (1, 3, 5), (5, 10)
_ACCURACY_AT, _FEW_LABELS = 5, 10  # a true label among the best 5 of up to 10 says little
_CELLS = 2**20  # scores compared at once
# What the first n places are worth in a discounted gain.
_DISCOUNTS = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(max(NDCG_AT)) + 2))])
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


def rank_metrics(space: LabelSpace) -> tuple[str, ...]:
    """The measures of a label space; none for binary and for multiclass with few labels."""
    size = len(space)
    if space.problem_type is ProblemType.MULTICLASS:
        return (f"accuracy_at_{_ACCURACY_AT}",) if size > _FEW_LABELS else ()
    if space.problem_type is ProblemType.BINARY or size == 1:
        return ()
    precisions = (f"precision_at_{k}" for k in PRECISION_AT if k <= size)
    return "lrap", *precisions, *(f"ndcg_at_{k}" for k in NDCG_AT if k <= size)


@dataclass
class RankState:
    """Sums over the rows that have a true label: the others have nothing to rank."""

    space: LabelSpace
    rows: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = dict.fromkeys(rank_metrics(self.space), 0.0)

    def update(self, scores: Floats, truth: Bools, known: Bools) -> None:
        """Count a batch ``[n, K]`` of scores from 0 up; labels that are not known take no place."""
        if not self.sums:
            return
        rows, labels = np.nonzero(truth)
        visible = scores if known.all() else np.where(known, scores, np.float32(-1))
        own = visible[rows, labels]
        above, level = _places(visible, rows, own)
        count = np.bincount(rows, minlength=len(scores))  # true labels a row
        judged = count > 0
        self.rows += int(judged.sum())
        for name in self.sums:
            kind, _, cut = name.partition("_at_")
            if kind == "lrap":
                shares = _among_true(rows, own) / (above + level)
                self.sums[name] += float((shares / count[rows]).sum())
            elif kind == "ndcg":
                last = int(cut)
                gains = _DISCOUNTS[np.minimum(above + level, last)] - _DISCOUNTS[np.minimum(above, last)]
                self.sums[name] += float((gains / level / _DISCOUNTS[np.minimum(count, last)][rows]).sum())
            else:
                hits = float((np.clip(int(cut) - above, 0, level) / level).sum())
                self.sums[name] += hits / int(cut) if kind == "precision" else hits

    def merge(self, other: RankState) -> None:
        """Add the sums of another state over the same label space."""
        self.rows += other.rows
        self.sums = {name: value + other.sums[name] for name, value in self.sums.items()}

    def compute(self) -> dict[str, float]:
        """Means over the judged rows, NaN without any."""
        return {name: value / self.rows if self.rows else float("nan") for name, value in self.sums.items()}


def _places(scores: Floats, rows: Ints, own: Floats) -> tuple[Ints, Ints]:
    """Of each (row, score): how many labels of the row score higher, and how many the same, itself among them."""
    above, level = np.empty((2, len(rows)), np.int64)
    step = max(1, _CELLS // scores.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        others, mine = scores[rows[part]], own[part, None]
        above[part] = np.count_nonzero(others > mine, axis=1)
        level[part] = np.count_nonzero(others == mine, axis=1)
    return above, level


def _among_true(rows: Ints, own: Floats) -> Ints:
    """Of each true label, in the order of rows: how many true labels of its row score at least as high."""
    order = np.lexsort((-own, rows))
    rows, own = rows[order], own[order]
    fresh = np.ones(len(rows), bool)
    fresh[1:] = (rows[1:] != rows[:-1]) | (own[1:] != own[:-1])
    ends = np.append(np.flatnonzero(fresh)[1:], len(rows))  # where each run of one score ends
    result = np.empty(len(rows), np.int64)
    result[order] = ends[np.cumsum(fresh) - 1] - np.searchsorted(rows, rows) if len(rows) else 0
    return result
