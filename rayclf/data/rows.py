"""Files to canonical rows: Arrow tables of ``id``, ``text``, ``positive`` and ``unknown``.

``positive`` and ``unknown`` are the targets in sparse form: the label positions that hold and those not known; all
others do not hold (see :func:`rayclf.labels.dense_targets`).
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.config import DataConfig
from rayclf.data.columns import check_text, find_columns, find_text
from rayclf.data.formats import read_table, text_column
from rayclf.data.targets import encode, infer_space, read_label_column
from rayclf.errors import DataError
from rayclf.labels import LabelSpace, ProblemType


@dataclass(frozen=True)
class LabelledRows:
    """Canonical rows with the label space of their targets and the columns they came from."""

    table: pa.Table
    space: LabelSpace
    text: str
    label: str


def read_labelled(
    path: str | os.PathLike[str],
    config: DataConfig | None = None,
    *,
    space: LabelSpace | None = None,
    problem_type: ProblemType | None = None,
    prefer: str | None = None,
) -> LabelledRows:
    """Read a labelled file.

    With ``space`` the labels must lie in it (evaluation, a test file); without, it is inferred. ``prefer`` is the text
    column to take where the file has it and ``config`` names none. Raises DataError or
    LabelError as the readers, column finders and target encoders do.
    """
    config = config or DataConfig()
    place = os.fspath(path)
    table = read_table(place)
    known = prefer if prefer in table.column_names else None
    text, label = find_columns(table, place, config.text or known, config.label)
    texts = checked_texts(table, place, text)
    column = read_label_column(table[label], place, label, config.separator)
    space = space or infer_space(column, problem_type)
    positive, unknown = encode(column, space)
    rows = pa.table(
        {
            "id": row_ids(table, posixpath.basename(place.replace(os.sep, "/"))),
            "text": texts,
            "positive": positive,
            "unknown": unknown,
        }
    )
    return LabelledRows(rows, space, text, label)


def checked_texts(table: pa.Table, place: str, text: str) -> pa.ChunkedArray:
    """The text column; raises DataError that names the first row whose text is missing or blank."""
    check_text(table, place, text)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(table[text]), ""), True)
    if pc.any(blank).as_py():
        count = pc.sum(blank).as_py()
        more = f" (and {count - 1} more rows)" if count > 1 else ""
        raise DataError(f"{place}: row {pc.index(blank, True).as_py() + 1}, column '{text}': empty text{more}")
    return table[text]


def row_ids(table: pa.Table, name: str, first_row: int = 1) -> pa.Array:
    """Each row's ``id`` where the file gives one, else ``<name>#<row>``, rows counted from 1."""
    made = pa.array([f"{name}#{row}" for row in range(first_row, first_row + table.num_rows)], pa.string())
    if "id" not in table.column_names or not table.num_rows:
        return made
    given = pa.concat_arrays([text_column(chunk) for chunk in table["id"].chunks])
    missing = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(given), ""), True)
    return pc.if_else(missing, made, given)


__all__ = ["LabelledRows", "checked_texts", "find_text", "read_labelled", "row_ids"]
