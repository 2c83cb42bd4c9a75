"""Curves for a report from the histograms of a :class:`rayclf.metrics.MetricState`: JSON-ready, 60 points each."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType
from rayclf.metrics.histogram import Doubles, Histogram, edges, reached

MICRO = "micro average"
_POINTS = 60


def draw(space: LabelSpace, histogram: Histogram, thresholds: Floats, f1: Doubles, most_labels: int) -> dict[str, Any]:
    """``roc`` and ``pr`` of the labels with most positive rows, and of all labels together when there are several.

    Each is ``{"label", "points"}``; points are [false positive rate, true positive rate] and [recall, precision].
    ``thresholds`` are ``{"label", "chosen", "points"}`` with points [threshold, F1], that in force among them, whose
    ``f1 [K]`` is given; none for multiclass. A label without positive rows has no curve, one without negative rows no
    ROC.
    """
    negative, positive = histogram
    support = positive.sum(axis=1)
    order = np.argsort(-support, kind="stable")[:most_labels]
    sides = [(space.names[label], negative[label], positive[label]) for label in order if support[label]]
    sums = [(MICRO, negative.sum(axis=0), positive.sum(axis=0))] if len(space) > 1 and support.any() else []
    multiclass = space.problem_type is ProblemType.MULTICLASS
    return {
        "roc": [{"label": name, "points": _roc(n, p)} for name, n, p in sides + sums if n.any()],
        "pr": [{"label": name, "points": _precision_recall(n, p)} for name, n, p in sides + sums],
        "thresholds": []
        if multiclass
        else [
            {"label": space.names[label], "chosen": float(thresholds[label]), "points": points}
            for label in order
            if support[label]
            for points in [_f1(negative[label], positive[label], float(thresholds[label]), float(f1[label]))]
        ],
    }


def _roc(negative: Histogram, positive: Histogram) -> list[list[float]]:
    false, true = (np.append(0.0, np.cumsum(side[::-1]) / side.sum()) for side in (negative, positive))
    return _thinned(false + true, false, true)


def _precision_recall(negative: Histogram, positive: Histogram) -> list[list[float]]:
    true, false = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    steps = positive[::-1] > 0  # elsewhere precision falls at the same recall
    recall, precision = true[steps] / true[-1], true[steps] / (true + false)[steps]
    # As scikit-learn draws it: from no recall at full precision on.
    recall, precision = np.append(0.0, recall), np.append(1.0, precision)
    return _thinned(recall, recall, precision)


def _f1(negative: Histogram, positive: Histogram, chosen: float, there: float) -> list[list[float]]:
    starts = edges(len(positive))
    true, guessed = reached(positive), reached(positive + negative)
    f1 = 2 * true / (guessed + positive.sum())
    grid = np.linspace(0, 1, _POINTS - 2)[1:-1]
    where = np.unique(np.clip(np.searchsorted(starts, grid), 0, len(starts) - 1))
    thresholds, values = np.append(starts[where], chosen), np.append(f1[where], there)  # the chosen one between bins
    order = np.argsort(thresholds)
    return [[0.0, float(f1[0])], *_pairs(thresholds[order], values[order]), [1.0, 0.0]]


def _thinned(path: Doubles, x: Doubles, y: Doubles) -> list[list[float]]:
    """The first and last point and some at like distances along ``path``, which never falls."""
    wanted = np.linspace(path[0], path[-1], _POINTS)
    where = np.unique(np.clip(np.searchsorted(path, wanted - 1e-12), 0, len(path) - 1))
    return _pairs(x[where], y[where])


def _pairs(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[list[float]]:
    return [[round(a, 6), round(b, 6)] for a, b in zip(x.tolist(), y.tolist(), strict=True)]
