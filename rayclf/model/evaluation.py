"""Metrics of a classifier on labelled rows, through the one inference path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from rayclf.config import DataConfig
from rayclf.data.rows import read_labelled
from rayclf.data.tokens import row_texts
from rayclf.labels import Floats, dense_targets
from rayclf.metrics import MetricState
from rayclf.model.engine import Classifier, Precision
from rayclf.model.info import find_artifact, read_info

_WINDOW = 1024  # rows planned together: enough of them to find neighbours of like length


def new_state(classifier: Classifier) -> MetricState:
    """Empty counts for a classifier's label space and thresholds."""
    return MetricState(classifier.space, np.asarray(classifier.info.thresholds, np.float32))


def score_rows(classifier: Classifier, rows: pa.Table) -> Iterator[tuple[pa.Table, Floats]]:
    """Canonical rows in windows of 1,024 with their probabilities."""
    for start in range(0, rows.num_rows, _WINDOW):
        window = rows.slice(start, _WINDOW).combine_chunks()
        yield window, classifier.probabilities(row_texts(window))


def evaluate_rows(
    classifier: Classifier, rows: pa.Table, on_progress: Callable[[int], None] | None = None
) -> tuple[MetricState, Floats]:
    """The counts of ``rows`` and their probabilities ``[n, K]``, in order; ``on_progress`` gets the rows just done."""
    state = new_state(classifier)
    parts = [np.empty((0, len(classifier.space)), np.float32)]
    for window, probabilities in score_rows(classifier, rows):
        positive, unknown = (window[name].combine_chunks() for name in ("positive", "unknown"))
        state.update(probabilities, dense_targets(positive, unknown, len(classifier.space)))
        parts.append(probabilities)
        if on_progress:
            on_progress(window.num_rows)
    return state, np.concatenate(parts)


def evaluate(
    artifact: str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    text: str | None = None,
    label: str | None = None,
    separator: str = "|",
    device: str = "auto",
    precision: Precision = "auto",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """All metrics of an artifact on a labelled file (see :meth:`rayclf.metrics.MetricState.compute`).

    The text column is ``text``, else what the classifier was trained on is read, else one is found as in training.
    ``on_progress`` gets the rows done and in all. Raises DataError or LabelError for a file that does not fit,
    ArtifactError.
    """
    info = read_info(find_artifact(artifact))
    columns = DataConfig(text=text, label=label, separator=separator)
    rows = read_labelled(data, columns, space=info.space, prefer=info.reads).table
    classifier = Classifier.load(artifact, device=device, precision=precision)
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, rows.num_rows)

    state, _ = evaluate_rows(classifier, rows, progress)
    return state.compute()
