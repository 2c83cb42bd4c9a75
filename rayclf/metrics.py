"""Metrics from a stream of probabilities: constant memory a label, mergeable over workers, no K × K matrix.

Checked against scikit-learn, whose definitions they follow: precision, recall and F1 of a label without predictions
or rows are 0; macro and weighted means run over the labels that occur in targets or predictions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType

_LOGIT_RANGE = 16.0  # probabilities nearer to 0 or 1 than 1e-7 share the outermost bins
_BIN_BUDGET = 2**22  # bins of all labels together; two int64 tables of it are 64 MiB

# The headline metrics, any of which can choose the best checkpoint.
METRICS = (
    "accuracy", "balanced_accuracy", "f1_macro", "f1_micro", "f1_weighted", "precision_macro", "precision_micro",
    "precision_weighted", "recall_macro", "recall_micro", "recall_weighted", "roc_auc", "log_loss",
)  # fmt: skip
# A larger value is better for every metric but these.
LOWER_IS_BETTER = ("log_loss",)


@dataclass
class MetricState:
    """Counts that metrics are made of. ``update`` with batches, ``merge`` states of other workers, then ``compute``.

    ROC-AUC comes from a histogram of the logits a label, at most 16,384 bins wide: rows in one bin count as ties, so
    with few labels it agrees with the exact area to about 1e-4.
    """

    space: LabelSpace
    thresholds: Floats
    rows: int = 0
    judged: int = 0  # rows with a known target: what accuracy is a share of
    correct: int = 0
    loss: float = 0.0
    known: int = 0
    confusions: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        size = len(self.space)
        self.true_positive, self.false_positive, self.false_negative, self.true_negative = np.zeros((4, size), np.int64)
        self.bins = int(np.clip(_BIN_BUDGET // size, 64, 16384))
        self.histogram = np.zeros((2, size, self.bins), np.int64)

    def update(self, probabilities: Floats, targets: Floats) -> None:
        """Count a batch: probabilities and targets ``[n, K]``, targets 1, 0 or NaN for unknown."""
        known = ~np.isnan(targets)
        truth = targets == 1
        holds = self.space.decide(probabilities, self.thresholds)
        self.rows += len(targets)
        judged = known.any(axis=1)
        self.judged += int(judged.sum())
        self.correct += int((((holds == truth) | ~known).all(axis=1) & judged).sum())
        self.true_positive += (holds & truth & known).sum(axis=0)
        self.false_positive += (holds & ~truth & known).sum(axis=0)
        self.false_negative += (~holds & truth & known).sum(axis=0)
        self.true_negative += (~holds & ~truth & known).sum(axis=0)
        self._count_loss(probabilities, truth, known)
        self._count_histogram(probabilities, truth, known)
        if self.space.problem_type is ProblemType.MULTICLASS:
            actual, guessed = truth.argmax(axis=1), holds.argmax(axis=1)
            wrong = actual != guessed
            self.confusions.update(zip(actual[wrong].tolist(), guessed[wrong].tolist(), strict=True))

    def _count_loss(self, probabilities: Floats, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]) -> None:
        p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
        if self.space.problem_type is ProblemType.MULTICLASS:
            self.loss -= float(np.log(p[truth]).sum())
            self.known += len(p)
        else:
            self.loss -= float(np.log(np.where(truth, p, 1 - p))[known].sum())
            self.known += int(known.sum())

    def _count_histogram(
        self, probabilities: Floats, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_]
    ) -> None:
        p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
        position = (np.log(p / (1 - p)) / _LOGIT_RANGE + 1) / 2
        bins = np.clip((position * self.bins).astype(np.int64), 0, self.bins - 1)
        labels = np.broadcast_to(np.arange(len(self.space)), bins.shape)
        for value, mask in ((0, ~truth & known), (1, truth)):
            np.add.at(self.histogram[value], (labels[mask], bins[mask]), 1)

    def merge(self, other: MetricState) -> None:
        """Add the counts of another state over the same label space."""
        self.rows += other.rows
        self.judged += other.judged
        self.correct += other.correct
        self.loss += other.loss
        self.known += other.known
        self.confusions.update(other.confusions)
        for name in ("true_positive", "false_positive", "false_negative", "true_negative", "histogram"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def compute(self) -> dict[str, Any]:
        """All metrics as plain numbers, NaN where undefined, with ``per_label`` rows and the 20 top ``confusions``.

        ``accuracy`` is the share of rows whose known targets are all right: subset accuracy for multilabel. Rows
        without a known target count in ``rows`` alone.
        """
        tp, fp, fn, tn = self.true_positive, self.false_positive, self.false_negative, self.true_negative
        auc, names = self._roc_auc(), self.space.names
        if self.space.problem_type is ProblemType.BINARY:
            # Two classes, as in scikit-learn: what the label misses, its negation takes wrongly, and the other way.
            tp, fp, fn = np.concatenate([tp, tn]), np.concatenate([fp, fn]), np.concatenate([fn, fp])
            auc, names = np.concatenate([auc, auc]), (*names, self.space.negative)
        precision, recall, f1 = _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)
        support = tp + fn
        seen = support > 0
        occurs = np.ones_like(seen) if self.space.problem_type is ProblemType.MULTILABEL else tp + fp + fn > 0
        result: dict[str, Any] = {
            "rows": self.rows,
            "accuracy": _mean(np.asarray([self.correct]), self.judged),
            "balanced_accuracy": float(recall[seen].mean()) if seen.any() else float("nan"),
            "log_loss": self.loss / self.known if self.known else float("nan"),
            "roc_auc": float(np.nanmean(auc)) if not np.isnan(auc).all() else float("nan"),
        }
        if self.space.problem_type is ProblemType.MULTILABEL:
            del result["balanced_accuracy"]
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            result[f"{name}_macro"] = float(values[occurs].mean()) if occurs.any() else float("nan")
            result[f"{name}_weighted"] = _mean(values * support, int(support.sum()))
        total = tp.sum(), fp.sum(), fn.sum()
        result["precision_micro"] = float(_ratio(total[0], total[0] + total[1]))
        result["recall_micro"] = float(_ratio(total[0], total[0] + total[2]))
        result["f1_micro"] = float(_ratio(2 * total[0], 2 * total[0] + total[1] + total[2]))
        result["per_label"] = [
            {"label": name, "precision": p, "recall": r, "f1": f, "roc_auc": a, "support": n}
            for name, p, r, f, a, n in zip(
                names,
                precision.tolist(),
                recall.tolist(),
                f1.tolist(),
                auc.tolist(),
                support.tolist(),
                strict=True,
            )
        ]
        result["confusions"] = [
            {"actual": self.space.names[a], "predicted": self.space.names[g], "rows": n}
            for (a, g), n in sorted(self.confusions.items(), key=lambda item: (-item[1], item[0]))[:20]
        ]
        return result

    def _roc_auc(self) -> npt.NDArray[np.float64]:
        """Area under the ROC curve a label: the chance that a positive row ranks above a negative one, ties half."""
        negative, positive = self.histogram
        below = np.cumsum(negative, axis=1) - negative
        wins = (positive * (below + negative / 2)).sum(axis=1)
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        return np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _ratio(part: Any, whole: Any) -> npt.NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean(values: npt.NDArray[Any], count: int) -> float:
    return float(values.sum() / count) if count else float("nan")


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether ``value`` beats ``than``; NaN never does, and everything beats NaN."""
    if np.isnan(value):
        return False
    return bool(np.isnan(than)) or (value < than if metric in LOWER_IS_BETTER else value > than)
