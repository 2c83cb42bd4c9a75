"""Rows by the logit of their probability, a histogram for each label: what ranks, curves and thresholds are read from.

A histogram is int64 ``[2, K, bins]``: rows where the label does not hold, and where it does. Bins part the logits from
-16 to 16 equally; probabilities nearer to 0 or 1 than 1e-7 share the outermost. Rows in one bin count as ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

_RANGE = 16.0
_BUDGET = 2**22  # bins of all labels together; two int64 tables of it are 64 MiB
_MOST = 16384  # with that many, areas agree with the exact ones to about 1e-4
_BLOCK = 2**18  # bins worked on at once
Histogram = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def empty(labels: int) -> Histogram:
    """No rows, in as many bins as so many labels can have: 64 to 16,384."""
    return np.zeros((2, labels, int(np.clip(_BUDGET // labels, 64, _MOST))), np.int64)


def count(histogram: Histogram, logits: Doubles, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> None:
    """Add the known cells of a batch ``[n, K]``."""
    _, size, bins = histogram.shape
    position = logits * (bins / (2 * _RANGE))
    position += bins / 2
    where = np.clip(position, 0, bins - 1, out=position).astype(np.int64)
    where += np.arange(size) * bins
    where += truth * (size * bins)
    flat = where.ravel() if known.all() else where[known]
    np.add.at(histogram.reshape(-1), flat, 1)


def edges(bins: int) -> Doubles:
    """The probability at which each bin begins, ``[bins]``: a row of at least it is in the bin or above."""
    return np.asarray(1 / (1 + np.exp(-(np.arange(bins) * 2 / bins - 1) * _RANGE)))


def blocks(histogram: Histogram) -> Iterator[tuple[slice, Histogram]]:
    """Some labels at a time, so that work on the bins takes little memory."""
    _, size, bins = histogram.shape
    step = max(1, _BLOCK // bins)
    for start in range(0, size, step):
        yield slice(start, start + step), histogram[:, start : start + step]


def reached(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rows in each bin or above, along the last axis."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def roc_auc(histogram: Histogram) -> Doubles:
    """Area under the ROC curve a label: the chance that a positive row ranks above a negative one, ties half.

    NaN for a label without positive or negative rows.
    """
    areas = np.full(histogram.shape[1], np.nan)
    for labels, (negative, positive) in blocks(histogram):
        below = np.cumsum(negative, axis=1) - negative
        wins = (positive * (below + negative / 2)).sum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        np.divide(wins, pairs, out=areas[labels], where=pairs > 0)
    return areas


def average_precision(histogram: Histogram) -> Doubles:
    """Area under the precision-recall curve a label: the mean precision at its positive rows, without interpolation.

    NaN for a label without positive rows.
    """
    areas = np.full(histogram.shape[1], np.nan)
    for labels, (negative, positive) in blocks(histogram):
        held = reached(positive)
        precision = held / np.maximum(held + reached(negative), 1)
        total = positive.sum(axis=1)
        np.divide((positive * precision).sum(axis=1), total, out=areas[labels], where=total > 0)
    return areas


def mirrored(histogram: Histogram) -> Histogram:
    """The histogram of the labels' negations."""
    return histogram[::-1, :, ::-1]
