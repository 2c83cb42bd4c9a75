"""Confidence intervals of metrics: what they would be on other rows like these (Efron's percentile bootstrap).

Metrics of decisions are counts over rows, so a row is kept as what it adds to them: its right, wrong and missed labels.
Rows that add the same are one pattern with a count, and a resample is one multinomial draw over the patterns: the
same distribution as drawing rows with replacement, at the cost of the patterns (few for multiclass).

Where a classifier has all rows right, or all wrong, so has it in each resample, and the bootstrap knows nothing: there
the bounds are those of the share of right rows, exact for a binomial (Clopper and Pearson 1934; "the rule of three").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType

_CELLS = 2**22  # counts worked on at once
_LEVEL = 0.95
_TAIL = (1 - _LEVEL) / 2
_RIGHT, _WRONG, _MISSED = range(3)  # what a row's decision on a label was, if the label holds or was answered
_SHARES = ("accuracy", "subset_accuracy")
_AVERAGES = ("macro", "micro", "weighted")
_DECISIONS = {"accuracy", "balanced_accuracy", "subset_accuracy", "hamming_loss", "mcc"} | {
    f"{name}_{average}" for name in ("precision", "recall", "f1") for average in _AVERAGES
}
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass
class Outcomes:
    """The outcomes of rows: ``update`` with batches, ``merge`` those of other workers, then ``confidence_interval``.

    Definitions are those of :class:`rayclf.metrics.MetricState`. Order does not matter: the same rows and seed give
    the same interval with any number of workers.
    """

    space: LabelSpace
    thresholds: Floats
    patterns: Counter[bytes] = field(default_factory=Counter)  # int32: known targets, then kind × classes + class
    losses: list[Doubles] = field(default_factory=list)  # of each judged row: sum of its losses, and of how many

    @property
    def classes(self) -> int:
        """Labels that are counted: binary has two, the label and its negation."""
        return 2 if self.space.problem_type is ProblemType.BINARY else len(self.space)

    def update(self, probabilities: Floats, targets: Floats) -> None:
        """Keep a batch: probabilities and targets ``[n, K]``, targets 1, 0 or NaN for unknown."""
        step = max(1, _CELLS // 16 // len(self.space))
        for start in range(0, len(targets), step):
            self._update(probabilities[start : start + step], targets[start : start + step])

    def _update(self, probabilities: Floats, targets: Floats) -> None:
        truth, known = targets == 1, ~np.isnan(targets)
        if self.space.problem_type is ProblemType.MULTICLASS:
            known = np.broadcast_to(truth.any(axis=1)[:, None], truth.shape)
        judged = known.any(axis=1)
        probabilities, truth, known = probabilities[judged], truth[judged], known[judged]
        p = np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)
        if self.space.problem_type is ProblemType.MULTICLASS:
            self.losses.append(np.stack([-np.log(p[truth]), np.ones(len(p))], axis=1))
        else:
            loss = -np.log(np.where(truth, p, 1 - p)) * known
            self.losses.append(np.stack([loss.sum(axis=1), known.sum(axis=1)], axis=1))
        holds = self.space.decide(probabilities, self.thresholds)
        if self.space.problem_type is ProblemType.BINARY:
            truth, holds, known = np.hstack([truth, ~truth]), np.hstack([holds, ~holds]), np.hstack([known, known])
        kind = np.select([~known, holds & truth, holds, truth], [3, _RIGHT, _WRONG, _MISSED], 3)
        rows, labels = np.nonzero(kind < 3)
        codes = (kind[rows, labels] * self.classes + labels).astype(np.int32)
        ends = np.cumsum(np.bincount(rows, minlength=len(kind))).tolist()
        start = 0
        for end, count in zip(ends, known.sum(axis=1, dtype=np.int32), strict=True):
            self.patterns[count.tobytes() + codes[start:end].tobytes()] += 1
            start = end

    def merge(self, other: Outcomes) -> None:
        """Add the rows of another object over the same label space and thresholds."""
        self.patterns.update(other.patterns)
        self.losses = self.losses + other.losses

    def value(self, metric: str) -> float | None:
        """The metric of the rows themselves, as MetricState computes it; None for one that is not kept here."""
        if not self.patterns or not self._keeps(metric):
            return None
        if metric == "log_loss":
            loss, known = np.concatenate(self.losses).sum(axis=0)
            return float(loss / known)
        patterns = _Patterns(self.patterns, self.classes, self.space.problem_type)
        return float(patterns.metric(metric, patterns.counts[:, None])[0])

    def confidence_interval(self, metric: str, resamples: int = 1000, seed: int = 0) -> tuple[float, float] | None:
        """The bounds between which 95 % of ``resamples`` lie; of accuracies of 0 and 1 those that a binomial has.

        None without rows or resamples, and for metrics that neither decisions nor the loss tell, such as ``roc_auc``.
        """
        if not self.patterns or resamples < 1 or not self._keeps(metric):
            return None
        if metric in _SHARES and (found := self.value(metric)) in (0, 1):
            most = 1 - _TAIL ** (1 / self.patterns.total())  # of the share that was seen in no row
            return (1 - most, 1.0) if found else (0.0, most)
        rng = np.random.default_rng(seed)
        values = np.concatenate(list(self._resampled(metric, resamples, rng)))
        low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
        return float(low), float(high)

    def described(self, metric: str, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
        """The interval as metrics have it, ``{"interval": {metric, low, high, level}}``; empty where there is none.

        Another metric's interval has no width where all rows are right, or all wrong: then accuracy takes its place.
        """
        if metric in _DECISIONS and self.value("accuracy") in (0, 1):
            metric = "subset_accuracy" if self._keeps("subset_accuracy") else "accuracy"
        found = self.confidence_interval(metric, resamples, seed)
        return {"interval": {"metric": metric, "low": found[0], "high": found[1], "level": _LEVEL}} if found else {}

    def _keeps(self, metric: str) -> bool:
        multilabel = self.space.problem_type is ProblemType.MULTILABEL
        missing = {"balanced_accuracy"} if multilabel else {"subset_accuracy", "hamming_loss"}
        return metric in (_DECISIONS | {"log_loss"}) - missing

    def _resampled(self, metric: str, resamples: int, rng: np.random.Generator) -> Iterator[Doubles]:
        if metric == "log_loss":
            losses = np.concatenate(self.losses)
            losses = losses[np.lexsort(losses.T)]
            step = max(1, _CELLS // len(losses))
            for start in range(0, resamples, step):
                drawn = losses[rng.integers(len(losses), size=(min(step, resamples - start), len(losses)))].sum(axis=1)
                yield drawn[:, 0] / drawn[:, 1]
            return
        patterns = _Patterns(self.patterns, self.classes, self.space.problem_type)
        step = max(1, _CELLS // (len(patterns.counts) + len(patterns.owners)))
        for start in range(0, resamples, step):
            times = min(step, resamples - start)
            yield patterns.metric(metric, rng.multinomial(patterns.rows, patterns.counts / patterns.rows, times).T)


class _Patterns:
    """Patterns as arrays: for each pair of a decision and a class the patterns that have it, one run behind another."""

    def __init__(self, patterns: Counter[bytes], classes: int, problem_type: ProblemType) -> None:
        ordered = sorted(patterns.items())
        self.classes, self.multilabel = classes, problem_type is ProblemType.MULTILABEL
        self.counts: Ints = np.asarray([count for _, count in ordered], np.int64)
        self.rows = int(self.counts.sum())
        contents = [np.frombuffer(key, np.int32) for key, _ in ordered]
        self.known: Ints = np.asarray([content[0] for content in contents], np.int64)
        codes = np.concatenate([content[1:] for content in contents]).astype(np.int64)
        owners = np.repeat(np.arange(len(contents)), [len(content) - 1 for content in contents])
        self.correct: Ints = np.ones(len(contents), np.int64)
        self.correct[owners[codes >= classes]] = 0  # a wrong or missed label spoils the row
        order = np.argsort(codes, kind="stable")
        self.owners = owners[order]
        present, self.starts = np.unique(codes[order], return_index=True)
        # Only labels that occur have places in the results: 25,000 labels cost no more than those of the rows.
        self.labels, place = np.unique(present % classes, return_inverse=True)
        self.places = (present // classes, place)

    def metric(self, metric: str, times: Ints) -> Doubles:
        """The metric when each pattern comes so often: times ``[patterns, resamples]`` to values ``[resamples]``."""
        if metric in _SHARES:
            return np.asarray(self.correct @ times / self.rows)
        resamples = times.shape[1]
        cells = np.zeros((3, len(self.labels), resamples), np.int64)
        if len(self.owners):
            cells[self.places] = np.add.reduceat(times[self.owners], self.starts, axis=0)
        tp, fp, fn = cells
        known = self.known @ times
        if metric == "hamming_loss":
            return np.asarray((fp + fn).sum(axis=0) / known)
        if metric == "mcc":
            return self._correlation(tp, fp, fn, known)
        support = tp + fn
        if metric == "balanced_accuracy":
            return _mean(_ratio(tp, support), support > 0)
        name, average = metric.rsplit("_", 1)
        if average == "micro":
            tp, fp, fn = (side.sum(axis=0, keepdims=True) for side in cells)
        part, whole = {"precision": (tp, tp + fp), "recall": (tp, tp + fn), "f1": (2 * tp, 2 * tp + fp + fn)}[name]
        values = _ratio(part, whole)
        if average == "micro":
            return values[0]
        if average == "weighted":
            # Without any true label in a resample the mean is taken as 0.
            return np.asarray((values * support).sum(axis=0) / np.maximum(support.sum(axis=0), 1))
        if self.multilabel:
            return np.asarray(values.sum(axis=0) / self.classes)  # labels that never occur count as 0
        return _mean(values, tp + fp + fn > 0)

    def _correlation(self, tp: Ints, fp: Ints, fn: Ints, known: Ints) -> Doubles:
        if self.multilabel:  # over all known targets: of two classes, the labels and their negations
            tp, fp, fn = (side.sum(axis=0, keepdims=True) for side in (tp, fp, fn))
            tn = known - tp - fp - fn
            tp, fp, fn = np.vstack([tp, tn]), np.vstack([fp, fn]), np.vstack([fn, fp])
        true, guessed, right = (tp + fn).astype(float), (tp + fp).astype(float), tp.sum(axis=0).astype(float)
        rows = true.sum(axis=0)
        spread = (rows**2 - (true**2).sum(axis=0)) * (rows**2 - (guessed**2).sum(axis=0))
        covariance = right * rows - (true * guessed).sum(axis=0)
        return np.divide(covariance, np.sqrt(spread), out=np.zeros_like(rows), where=spread > 0)


def _ratio(part: Ints, whole: Ints) -> Doubles:
    return np.asarray(np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0))


def _mean(values: Doubles, counted: npt.NDArray[np.bool_]) -> Doubles:
    return np.asarray((values * counted).sum(axis=0) / counted.sum(axis=0))
