"""Evaluation by all workers together: each classifies every n-th window of a part, and their counts are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch.distributed as dist

from rayclf.data.dataset import Dataset
from rayclf.errors import ConfigError
from rayclf.labels import Floats
from rayclf.metrics import MetricState
from rayclf.metrics import rank_of as known_rank
from rayclf.model.engine import Classifier
from rayclf.model.evaluation import WINDOW, Tally, classify, new_state
from rayclf.model.samples import choose_samples, sample_records
from rayclf.own_metric_state import OwnMetricState
from rayclf.own_metrics import OwnMetric, find_choice
from rayclf.training.job import Job

_WIDE = 256  # labels from which on only the highest probabilities of a row are written
_KEPT = 100


def rank_of(metric: str, metrics: Mapping[str, Any], own: Sequence[OwnMetric] = ()) -> float:
    """What the best evaluation has the most of: ``train.metric``, negated where a smaller value is better."""
    chosen = find_choice(metric, own)
    if chosen is None:
        return known_rank(metric, metrics)
    if metric not in metrics:
        raise ConfigError(f"train.metric: {chosen.spec} gave no {metric}; it gave {', '.join(_names(chosen, metrics))}")
    return -float(metrics[metric]) if chosen.lower_is_better else float(metrics[metric])


def _names(metric: OwnMetric, metrics: Mapping[str, Any]) -> list[str]:
    return [name for name in metrics if name.split(".")[0] == metric.name]


class Evaluator:
    """The held-out parts of one job, as one worker of several sees them."""

    def __init__(self, job: Job, dataset: Dataset, rank: int, world: int) -> None:
        self.job, self.dataset, self.rank, self.world = job, dataset, rank, world
        self._samples: list[int] | None = None

    def validate(self, classifier: Classifier, step: int, epoch: int, head: bool = False) -> dict[str, Any] | None:
        """Metrics of the validation part on all workers, written down with samples; None when there is no such part.

        ``head`` marks those of the fitted head before the first step, which have no samples.
        """
        part = "validation"
        if part not in self.job.rows:
            return None
        tally = self.measure(classifier, part, Tally(new_state(classifier), own=self.own(classifier)))
        metrics = tally.compute()
        if self.rank == 0:
            self.write({"part": part, "step": step, "epoch": epoch, **({"head": True} if head else {}), **metrics})
            if not head:
                self._write_samples(classifier, part, step)
        return metrics

    def measure(
        self, classifier: Classifier, part: str, tally: Tally, *, most: int | None = None, write: bool = False
    ) -> Tally:
        """The counts of a part, or of its first ``most`` rows, on all workers; ``write`` keeps the predictions."""
        for number, rows in self._windows(part, most):
            probabilities = classify(classifier, rows, tally)
            if write:
                ray.get(self.job.journal.predictions.remote(number, _predictions(rows, probabilities)))
        if self.world > 1:
            tallies: list[Any] = [None] * self.world
            dist.all_gather_object(tallies, tally)
            tally = tallies[0]
            for other in tallies[1:]:
                tally.merge(other)
        return tally

    def own(self, classifier: Classifier) -> OwnMetricState | None:
        """Empty counts for the user's metrics, if there are any."""
        return OwnMetricState(self.job.own, classifier.space) if self.job.own else None

    def write(self, event: dict[str, Any]) -> None:
        """Write an evaluation down."""
        ray.get(self.job.journal.event.remote({"kind": "evaluation", **event}))

    def _windows(self, part: str, most: int | None) -> Iterator[tuple[int, pa.Table]]:
        left = self.job.rows[part] if most is None else min(most, self.job.rows[part])
        for number, rows in enumerate(self.dataset.batches(part, WINDOW)):
            if left <= 0:
                return
            if number % self.world == self.rank:
                yield number, rows.slice(0, left)
            left -= rows.num_rows

    def _write_samples(self, classifier: Classifier, part: str, step: int) -> None:
        count = self.job.config.evaluation.samples
        rows = next(self.dataset.batches(part, WINDOW)) if count else None
        if rows is None:
            return
        if self._samples is None:
            self._samples = choose_samples(rows["id"].to_pylist(), count)
        rows = rows.take(pa.array(self._samples)).combine_chunks()
        unused = Tally(new_state(classifier))
        records = sample_records(
            rows,
            classify(classifier, rows, unused),
            classifier.space,
            np.asarray(classifier.info.thresholds, np.float32),
            self.job.config.output.texts,
        )
        ray.get(self.job.journal.samples.remote([{"step": step, "part": part, **record} for record in records]))


def raw_state(classifier: Classifier) -> MetricState:
    """Empty counts of what the classifier would decide uncalibrated, every threshold 0.5."""
    return MetricState(classifier.space, np.full(len(classifier.space), 0.5, np.float32))


def _predictions(rows: pa.Table, probabilities: Floats) -> pa.Table:
    """Ids, targets and probabilities; of more than 256 labels the 100 highest, with their positions as ``labels``."""
    table = rows.select(["id", "positive", "unknown"])
    if probabilities.shape[1] > _WIDE:
        top = np.argpartition(-probabilities, _KEPT, axis=1)[:, :_KEPT]
        order = np.take_along_axis(-probabilities, top, axis=1).argsort(axis=1, kind="stable")
        top = np.take_along_axis(top, order, axis=1)
        table = table.append_column("labels", _lists(top.astype(np.int32)))
        probabilities = np.take_along_axis(probabilities, top, axis=1)
    return table.append_column("probabilities", _lists(probabilities))


def _lists(values: np.ndarray[Any, Any]) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
