"""The headline metrics by name, any of which can choose the best checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics.ranking import NDCG_AT, PRECISION_AT, rank_metrics

METRICS = (
    "accuracy", "balanced_accuracy", "subset_accuracy", "hamming_loss", "f1_macro", "f1_micro", "f1_weighted",
    "precision_macro", "precision_micro", "precision_weighted", "recall_macro", "recall_micro", "recall_weighted",
    "mcc", "roc_auc", "pr_auc", "log_loss", "ece", "accuracy_at_5", "lrap",
    *(f"precision_at_{k}" for k in PRECISION_AT), *(f"ndcg_at_{k}" for k in NDCG_AT),
)  # fmt: skip
# A larger value is better for every metric but these.
LOWER_IS_BETTER = ("log_loss", "ece", "hamming_loss")
_RANKING = {name for name in METRICS if name == "lrap" or "_at_" in name}


def metrics_of(space: LabelSpace) -> tuple[str, ...]:
    """Those of METRICS that a label space has; the others are no keys of :meth:`MetricState.compute` for it."""
    multilabel = space.problem_type is ProblemType.MULTILABEL
    missing = {"balanced_accuracy"} if multilabel else {"subset_accuracy", "hamming_loss"}
    missing |= _RANKING.difference(rank_metrics(space))
    return tuple(name for name in METRICS if name not in missing)


def rank_of(metric: str, metrics: Mapping[str, Any]) -> float:
    """The value of ``metric`` as a number of which more is better; minus infinity for one that is undefined.

    Raises KeyError for a metric that is not there (see :func:`metrics_of`).
    """
    value = metrics[metric]
    if value is None or math.isnan(value):
        return -math.inf
    return float(-value if metric in LOWER_IS_BETTER else value)
