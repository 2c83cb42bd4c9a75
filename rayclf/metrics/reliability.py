"""How far probabilities can be taken at their word: rows by confidence, and the expected calibration error.

Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599: 15 bins of equal width. Multiclass judges the probability of the
top label; binary and multilabel judge that of every label of which the target is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BINS = 15
Doubles = npt.NDArray[np.float64]


def empty() -> Doubles:
    """No cells: counts, sums of confidence and sums of what was right, ``[3, 15]``."""
    return np.zeros((3, BINS))


def count(cells: Doubles, confidence: npt.NDArray[np.floating], right: npt.NDArray[np.bool_]) -> None:
    """Add confidences ``[m]`` and whether each was right."""
    where = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    cells[0] += np.bincount(where, minlength=BINS)
    cells[1] += np.bincount(where, confidence, BINS)
    cells[2] += np.bincount(where[right], minlength=BINS)


def calibration_error(cells: Doubles) -> float:
    """Mean distance of confidence from accuracy over the bins, weighted by what is in them; NaN without any."""
    total = cells[0].sum()
    return float(np.abs(cells[1] - cells[2]).sum() / total) if total else float("nan")


def diagram(cells: Doubles) -> list[list[float]]:
    """The bins that hold anything: mean confidence, accuracy, rows (of binary and multilabel: known targets)."""
    return [[held / n, right / n, int(n)] for n, held, right in cells.T.tolist() if n]
