"""Metrics of a classifier on labelled rows, through the one inference path."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from rayclf.bootstrap import Outcomes
from rayclf.calibration import TemperatureFit
from rayclf.config import DataConfig
from rayclf.data.rows import read_labelled
from rayclf.data.tokens import row_texts
from rayclf.labels import Floats, dense_targets
from rayclf.metrics import MetricState
from rayclf.model.engine import Classifier
from rayclf.model.info import find_artifact, read_info
from rayclf.model.runtime import Precision
from rayclf.model.samples import WorstMistakes
from rayclf.own_metric_state import OwnMetricState
from rayclf.own_metrics import load_metrics

WINDOW = 1024  # rows planned together: enough of them to find neighbours of like length


@dataclass
class Tally:
    """What is counted of rows as they are classified; of every worker, then merged.

    ``metrics`` counts the artifact's decisions, and what is None is left out: ``raw`` the same before calibration
    (temperature 1, thresholds 0.5), ``outcomes`` what confidence intervals are drawn from, ``fit`` what the temperature
    is fitted to, ``own`` the user's metrics, ``mistakes`` the worst of them.
    """

    metrics: MetricState
    raw: MetricState | None = None
    outcomes: Outcomes | None = None
    fit: TemperatureFit | None = None
    own: OwnMetricState | None = None
    mistakes: WorstMistakes | None = None

    def update(self, rows: pa.Table, logits: Floats, probabilities: Floats) -> None:
        """Count canonical rows with their logits and probabilities ``[n, K]``."""
        space = self.metrics.space
        positive, unknown = (rows[name].combine_chunks() for name in ("positive", "unknown"))
        targets = dense_targets(positive, unknown, len(space))
        self.metrics.update(probabilities, targets)
        if self.raw is not None:
            self.raw.update(space.probabilities(logits), targets)
        if self.outcomes is not None:
            self.outcomes.update(probabilities, targets)
        if self.fit is not None:
            self.fit.update(logits, targets)
        if self.own is not None:
            self.own.update(rows["id"].to_pylist(), row_texts(rows), targets, probabilities)
        if self.mistakes is not None:
            self.mistakes.update(rows, probabilities)

    def merge(self, other: Tally) -> None:
        """Add what another worker counted with the same parts."""
        for name in ("metrics", "raw", "outcomes", "fit", "own", "mistakes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine.merge(theirs)

    def compute(self) -> dict[str, Any]:
        """All metrics, the user's among them."""
        return self.metrics.compute() | (self.own.compute() if self.own is not None else {})


def new_state(classifier: Classifier) -> MetricState:
    """Empty counts for a classifier's label space and thresholds."""
    return MetricState(classifier.space, np.asarray(classifier.info.thresholds, np.float32))


def classify(classifier: Classifier, rows: pa.Table, tally: Tally) -> Floats:
    """Count a window of canonical rows; returns their probabilities ``[n, K]``."""
    rows = rows.combine_chunks()
    logits = classifier.logits(row_texts(rows))
    probabilities = classifier.to_probabilities(logits)
    tally.update(rows, logits, probabilities)
    return probabilities


def evaluate(
    artifact: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    text: str | None = None,
    label: str | None = None,
    separator: str | None = None,
    metrics: Sequence[str] = (),
    device: str = "auto",
    precision: Precision = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """All metrics of an artifact on a labelled file (see :meth:`rayclf.metrics.MetricState.compute`), and the 95 %
    ``interval`` of the macro F1 by bootstrap over rows.

    The text column is ``text``, else what the classifier was trained on is read, else, where that was one text, one
    column is found as in training. ``separator`` parts several labels in one cell, as in training when None.
    ``metrics`` are the user's own, ``file.py:function``. ``on_progress`` gets the rows done and in all. Raises
    DataError or LabelError for a file that does not fit, ConfigError for a metric that fails, ArtifactError.
    """
    info = read_info(find_artifact(artifact))
    reads = info.reads.read_from(text) if text else info.reads if info.reads.form != "text" else None
    columns = DataConfig(label=label, separator=separator or info.separator, **(reads.model_dump() if reads else {}))
    rows = read_labelled(data, columns, space=info.space, prefer=info.reads).table
    classifier = Classifier.load(artifact, device=device, precision=precision, expected_rows=rows.num_rows)
    state = new_state(classifier)
    outcomes = Outcomes(info.space, state.thresholds)
    own = OwnMetricState(load_metrics(metrics), info.space) if metrics else None
    tally = Tally(state, outcomes=outcomes, own=own)
    for start in range(0, rows.num_rows, WINDOW):
        classify(classifier, rows.slice(start, WINDOW), tally)
        on_progress(min(start + WINDOW, rows.num_rows), rows.num_rows)
    return tally.compute() | outcomes.described("f1_macro")
