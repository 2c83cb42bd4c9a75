"""Own metrics to use as they are or to copy from: ``--metric rayclf.sample_metrics:binary_match``.

Both tell how far probabilities match 0/1 targets, without thresholds: from 0, every known target missed with
certainty, to 1, every one hit with certainty. Labels with an unknown target do not count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def binary_match(input_text: str, expected: dict[str, float], predicted: dict[str, float]) -> float:
    """1 − mean |target − probability| over the row's known labels; NaN when none is known."""
    return _mean(_match(target, predicted[name]) for name, target in expected.items())


def multilabel_match(input_text: str, expected: dict[str, float], predicted: dict[str, float]) -> float:
    """Half the match of the labels that hold, half that of those that do not, each as in :func:`binary_match`.

    The many labels that a row does not have thus weigh no more than the few it has: 0.5 is what all zeros get. Where
    all known targets are alike, their match is the whole; NaN when none is known.
    """
    holding = _mean(_match(target, predicted[name]) for name, target in expected.items() if target == 1)
    others = _mean(_match(target, predicted[name]) for name, target in expected.items() if target == 0)
    return _mean(match for match in (holding, others) if not math.isnan(match))


def _match(target: float, probability: float) -> float:
    return probability if target == 1 else 1.0 - probability


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else math.nan
