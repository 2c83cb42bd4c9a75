"""The counts that metrics are made of, from batches of probabilities and targets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType
from rayclf.metrics import curves, histogram, reliability
from rayclf.metrics.ranking import RankState
from rayclf.metrics.scores import Scores

_CELLS = 2**18  # probabilities worked on at once
_NAN = float("nan")
Bools = npt.NDArray[np.bool_]


@dataclass
class MetricState:
    """Counts that metrics are made of. ``update`` with batches, ``merge`` states of other workers, then ``compute``.

    Areas are exact up to 2^20 probabilities (rows x labels). Beyond, and for curves, there is a histogram of the logits
    a label, at most 16,384 bins wide: rows in one bin count as ties, so with few labels areas agree with the exact ones
    to about 1e-4.
    """

    space: LabelSpace
    thresholds: Floats
    rows: int = 0
    judged: int = 0  # rows with a known target: what accuracy is a share of
    correct: int = 0
    loss: float = 0.0
    known: int = 0  # what the loss is a mean over: known targets, of multiclass rows
    confusions: Counter[tuple[int, int]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        size = len(self.space)
        self.true_positive, self.false_positive, self.false_negative, self.true_negative = np.zeros((4, size), np.int64)
        self.histogram = histogram.empty(size)
        self.scores = Scores()
        self.reliability = reliability.empty()
        self.ranks = RankState(self.space)

    def update(self, probabilities: Floats, targets: Floats) -> None:
        """Count a batch: probabilities and targets ``[n, K]``, targets 1, 0 or NaN for unknown.

        A multiclass row counts when its label is known: then all of its targets are.
        """
        step = max(1, _CELLS // len(self.space))  # memory stays small with many labels
        for start in range(0, len(targets), step):
            self._update(probabilities[start : start + step], targets[start : start + step])

    def _update(self, probabilities: Floats, targets: Floats) -> None:
        self.rows += len(targets)
        truth = targets == 1
        if self.space.problem_type is ProblemType.MULTICLASS:
            labelled = truth.any(axis=1)
            if not labelled.all():
                probabilities, truth = probabilities[labelled], truth[labelled]
            known = np.ones(truth.shape, bool)
        else:
            known = ~np.isnan(targets)
        holds = self.space.decide(probabilities, self.thresholds)
        wrong = (holds != truth) & known
        judged = known.any(axis=1)
        self.judged += int(judged.sum())
        self.correct += int((judged & ~wrong.any(axis=1)).sum())
        tp, fp, true, seen = (_by_label(cells) for cells in (holds & truth, wrong & holds, truth, known))
        self.true_positive += tp
        self.false_positive += fp
        self.false_negative += true - tp
        self.true_negative += seen - true - fp
        p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
        log_p, log_q = np.log(p), np.log(1 - p)
        histogram.count(self.histogram, log_p - log_q, truth, known)
        self.scores.update(probabilities, truth, known)
        self.ranks.update(probabilities, truth, known)
        if self.space.problem_type is ProblemType.MULTICLASS:
            self.loss -= float(log_p[truth].sum())
            self.known += len(p)
            reliability.count(self.reliability, probabilities.max(axis=1), (holds & truth).any(axis=1))
            missed = wrong.any(axis=1)
            actual, guessed = truth[missed].argmax(axis=1), holds[missed].argmax(axis=1)
            self.confusions.update(zip(actual.tolist(), guessed.tolist(), strict=True))
        else:
            self.loss -= float(np.where(truth, log_p, log_q)[known].sum())
            self.known += int(seen.sum())
            reliability.count(self.reliability, probabilities[known], truth[known])

    def merge(self, other: MetricState) -> None:
        """Add the counts of another state over the same label space."""
        self.rows += other.rows
        self.judged += other.judged
        self.correct += other.correct
        self.loss += other.loss
        self.known += other.known
        self.confusions.update(other.confusions)
        self.scores.merge(other.scores)
        self.ranks.merge(other.ranks)
        for name in ("true_positive", "false_positive", "false_negative", "true_negative", "histogram", "reliability"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def compute(self) -> dict[str, Any]:
        """All metrics as plain numbers, NaN where undefined, with ``per_label`` rows and the 20 top ``confusions``.

        ``accuracy`` is the share of rows whose known targets are all right: for multilabel it is ``subset_accuracy``.
        Rows without a known target count in ``rows`` alone. ``roc_auc`` and ``pr_auc`` (average precision) are means
        over the labels that have them; of binary, ``pr_auc`` is that of the label, not of its negation. ``mcc`` is
        the R_K statistic of the classes (Gorodkin 2004), for multilabel that of all known targets together, so micro.
        Ranks are means over rows with a true label (see :mod:`rayclf.metrics.ranking`), ``ece`` is as in
        :mod:`rayclf.metrics.reliability`.
        """
        tp, fp, fn, tn = self.true_positive, self.false_positive, self.false_negative, self.true_negative
        ranked = self.scores.ranked()
        areas = self.histogram if ranked is None else ranked
        roc, pr = histogram.roc_auc(areas), histogram.average_precision(areas)
        names, mean_roc, mean_pr = self.space.names, _known_mean(roc), _known_mean(pr)
        multilabel = self.space.problem_type is ProblemType.MULTILABEL
        if self.space.problem_type is ProblemType.BINARY:
            # Two classes, as in scikit-learn: what the label misses, its negation takes wrongly, and the other way.
            tp, fp, fn = np.concatenate([tp, tn]), np.concatenate([fp, fn]), np.concatenate([fn, fp])
            negation = histogram.average_precision(histogram.mirrored(areas))
            roc, pr = np.concatenate([roc, roc]), np.concatenate([pr, negation])
            names = (*names, self.space.negative)
        precision, recall, f1 = _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn)
        support = tp + fn
        seen = support > 0
        occurs = np.ones_like(seen) if multilabel else tp + fp + fn > 0
        accuracy = self.correct / self.judged if self.judged else _NAN
        result: dict[str, Any] = {"rows": self.rows, "accuracy": accuracy}
        if multilabel:
            cells = int((tp + fp + fn + tn).sum())
            result["subset_accuracy"] = accuracy
            result["hamming_loss"] = int((fp + fn).sum()) / cells if cells else _NAN
        else:
            result["balanced_accuracy"] = float(recall[seen].mean()) if seen.any() else _NAN
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            result[f"{name}_macro"] = float(values[occurs].mean()) if occurs.any() else _NAN
            result[f"{name}_weighted"] = float((values * support).sum() / support.sum()) if seen.any() else _NAN
        total = tp.sum(), fp.sum(), fn.sum()
        result["precision_micro"] = float(_ratio(total[0], total[0] + total[1]))
        result["recall_micro"] = float(_ratio(total[0], total[0] + total[2]))
        result["f1_micro"] = float(_ratio(2 * total[0], 2 * total[0] + total[1] + total[2]))
        result["mcc"] = _correlation(*(side.sum() for side in (tp, fp, fn, tn))) if multilabel else _r_k(tp, fp, fn)
        result |= {"roc_auc": mean_roc, "pr_auc": mean_pr, "log_loss": self.loss / self.known if self.known else _NAN}
        result["ece"] = reliability.calibration_error(self.reliability)
        result |= self.ranks.compute()
        columns = {"precision": precision, "recall": recall, "f1": f1, "roc_auc": roc, "support": support, "pr_auc": pr}
        rows = zip(names, *(values.tolist() for values in columns.values()), strict=True)
        result["per_label"] = [dict(zip(("label", *columns), row, strict=True)) for row in rows]
        result["confusions"] = [
            {"actual": self.space.names[a], "predicted": self.space.names[g], "rows": n}
            for (a, g), n in sorted(self.confusions.items(), key=lambda item: (-item[1], item[0]))[:20]
        ]
        return result

    def curves(self, most_labels: int = 8) -> dict[str, Any]:
        """ROC, precision-recall, threshold and reliability curves: see :func:`rayclf.metrics.curves.draw`."""
        f1 = _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)
        drawn = curves.draw(self.space, self.histogram, self.thresholds, f1, most_labels)
        return {**drawn, "reliability": reliability.diagram(self.reliability)}


def _by_label(cells: Bools) -> npt.NDArray[np.int64]:
    return np.count_nonzero(cells, axis=0)


def _r_k(tp: Any, fp: Any, fn: Any) -> float:
    """Matthews' correlation over exclusive classes from their margins: no K × K matrix is needed."""
    right, true, guessed = float(tp.sum()), (tp + fn).astype(np.float64), (tp + fp).astype(np.float64)
    rows = float(true.sum())
    covariance = right * rows - float(true @ guessed)
    spread = (rows**2 - float(true @ true)) * (rows**2 - float(guessed @ guessed))
    if not rows:
        return _NAN
    return covariance / spread**0.5 if spread > 0 else 0.0


def _correlation(tp: Any, fp: Any, fn: Any, tn: Any) -> float:
    return _r_k(np.asarray([tp, tn]), np.asarray([fp, fn]), np.asarray([fn, fp]))


def _ratio(part: Any, whole: Any) -> npt.NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _known_mean(values: npt.NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else _NAN
