"""The user's metrics over the rows of a part: gathered batch by batch, on every worker, then put together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rayclf.data.tokens import Text
from rayclf.errors import ConfigError
from rayclf.labels import Floats, LabelSpace
from rayclf.own_metrics import OwnMetric

# Numbers that the array form may gather; float32, once for targets and once for probabilities: 400 MB.
MOST_NUMBERS = 50_000_000


def check_room(metrics: Sequence[OwnMetric], rows: int, labels: int) -> None:
    """Raise ConfigError when a metric of the array form would gather more than 50 million numbers, rows × labels."""
    for metric in metrics:
        if metric.form == "array" and rows * labels > MOST_NUMBERS:
            raise ConfigError(
                f"metric {metric.spec}: {rows} rows × {labels} labels are more than {MOST_NUMBERS // 10**6} million "
                "numbers; write it in the row form, function(input_text, expected, predicted)"
            )


@dataclass
class OwnMetricState:
    """What own metrics are made of; ``update`` with batches, ``merge`` states of other workers, then ``compute``.

    Row metrics are a sum and a count. For those of the array form all targets and probabilities are kept: 8 bytes for
    each row and label.
    """

    metrics: Sequence[OwnMetric]
    space: LabelSpace
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    kept: list[tuple[Floats, Floats]] = field(default_factory=list)

    def update(self, ids: Sequence[str], texts: Sequence[Text], targets: Floats, probabilities: Floats) -> None:
        """Count a batch: ``n`` ids and texts (of pairs both), targets (1, 0, NaN) and probabilities ``[n, K]``.

        Raises ConfigError when a metric fails or there are too many rows for the array form.
        """
        self.rows += len(targets)
        if any(metric.form == "array" for metric in self.metrics):
            check_room(self.metrics, self.rows, len(self.space))
            self.kept.append((targets.astype(np.float32), probabilities.astype(np.float32)))
        mine = [metric for metric in self.metrics if metric.form == "row"]
        if not mine:
            return
        names = self.space.names
        for row_id, text, target, row in zip(ids, texts, targets.tolist(), probabilities.tolist(), strict=True):
            whole = text if isinstance(text, str) else "\n".join(text)
            for metric in mine:
                # New dicts for each metric: it may change them.
                expected = {name: value for name, value in zip(names, target, strict=True) if value == value}
                value = metric.row(row_id, whole, expected, dict(zip(names, row, strict=True)))
                if not math.isnan(value):
                    self.sums[metric.name] = self.sums.get(metric.name, 0.0) + value
                    self.counts[metric.name] = self.counts.get(metric.name, 0) + 1

    def merge(self, other: OwnMetricState) -> None:
        """Add the rows of another state over the same metrics and labels; raises ConfigError as :meth:`update`."""
        self.rows += other.rows
        check_room(self.metrics, self.rows, len(self.space))
        self.kept += other.kept
        for name, count in other.counts.items():
            self.sums[name] = self.sums.get(name, 0.0) + other.sums[name]
            self.counts[name] = self.counts.get(name, 0) + count

    def compute(self) -> dict[str, float]:
        """The metrics by name (``function``, or ``function.key`` of dicts); NaN where no row has a value."""
        result: dict[str, float] = {}
        whole = [np.concatenate(arrays) for arrays in zip(*self.kept, strict=True)] if self.rows else []
        for metric in self.metrics:
            if metric.form == "array" and whole:
                result |= metric.array(whole[0], whole[1])
            else:
                count = self.counts.get(metric.name, 0)
                result[metric.name] = self.sums[metric.name] / count if count else math.nan
        return result
