"""The output of a unit: results beside the kept columns, in one file or one a label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayclf.labels import Floats, LabelSpace, ProblemType
from rayclf.scoring.job import Columns
from rayclf.scoring.manifest import Manifest

NO_LABEL = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for null: where rows with an error go


def result_columns(
    space: LabelSpace, probabilities: Floats, holds: npt.NDArray[np.bool_], columns: Columns, prefix: str = ""
) -> dict[str, pa.Array]:
    """What is said of each row, from probabilities and decisions, both ``[n, K]``, without a Python object a row.

    ``label`` and ``score`` are the most probable label and its probability (of a binary task the label or its
    negation), ``labels`` those that hold after thresholds.
    """
    names = pa.array(space.names, pa.string())
    best = probabilities.argmax(axis=1)
    score = probabilities[np.arange(len(best)), best]
    label = names.take(pa.array(best))
    if space.problem_type is ProblemType.BINARY:
        yes = holds[:, 0]
        label = pc.if_else(pa.array(yes), space.names[0], space.negative)
        score = np.where(yes, score, 1 - score)
    result = {"label": label, "score": pa.array(score, pa.float32())}
    offsets = np.concatenate([[0], holds.sum(axis=1).cumsum()]).astype(np.int32)
    result["labels"] = pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(np.nonzero(holds)[1])))
    if columns.probabilities == "list":
        result["probabilities"] = _lists(probabilities)
    elif columns.probabilities == "columns":
        for position, name in enumerate(space.names):
            result[f"probability_{name}"] = pa.array(probabilities[:, position])
    if columns.top_k is not None:
        count = min(columns.top_k, len(space))
        top = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
        flat = names.take(pa.array(top.reshape(-1)))
        result["top_labels"] = pa.ListArray.from_arrays(_ends(len(top), count), flat)
        result["top_scores"] = _lists(np.take_along_axis(probabilities, top, axis=1))
    return {prefix + name: column for name, column in result.items()}


def _ends(rows: int, width: int) -> pa.Array:
    return pa.array(np.arange(rows + 1, dtype=np.int32) * width)


def _lists(matrix: Floats) -> pa.Array:
    return pa.ListArray.from_arrays(_ends(*matrix.shape), pa.array(matrix.reshape(-1), pa.float32()))


def spread(columns: dict[str, pa.Array], good: npt.NDArray[np.int64], rows: int) -> dict[str, pa.Array]:
    """Columns of the ``good`` rows as columns of all ``rows``, with nulls for the others."""
    place = np.full(rows, -1)
    place[good] = np.arange(len(good))
    index = pa.array(place, mask=place < 0)
    return {name: column.take(index) for name, column in columns.items()}


def write_unit(manifest: Manifest, name: str, table: pa.Table, by_label: bool) -> list[dict[str, Any]]:
    """Write the rows of a unit, each file whole or not at all; returns the files for the commit record."""
    parts = _partitions(table) if by_label else [("", table)]
    return [manifest.write_part(name, rows, partition) for partition, rows in parts]


def _partitions(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Hive partitions by ``label``, which their rows do not repeat."""
    labels = table["label"].combine_chunks()
    for label in pc.unique(labels).sort():
        mask = pc.is_null(labels) if not label.is_valid else pc.fill_null(pc.equal(labels, label), False)
        value = quote(label.as_py(), safe=" ") if label.is_valid else NO_LABEL
        yield f"label={value}", table.filter(mask).drop_columns("label")


def label_order(space: LabelSpace) -> dict[str, str]:
    """Metadata of the files: the order of ``probabilities``."""
    return {"rayclf.labels": json.dumps(space.names)}
