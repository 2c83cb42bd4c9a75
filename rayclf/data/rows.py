"""Canonical rows: Arrow tables of ``id``, ``text``, ``text_pair`` for pairs, ``positive`` and ``unknown``.

``positive`` and ``unknown`` are the targets in sparse form: the label positions that hold and those not known; all
others do not hold (see :func:`rayclf.labels.dense_targets`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.config import DataConfig
from rayclf.data.survey import Survey, Tables, one_by_one, survey
from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.labels import LabelSpace, ProblemType


@dataclass(frozen=True)
class LabelledRows:
    """Canonical rows with the label space of their targets and the columns they came from; ``rejected`` rows are not
    among them."""

    table: pa.Table
    space: LabelSpace
    reads: TextSource
    label: str
    rejected: int = 0


def canonical_batches(
    found: Survey, wanted: npt.NDArray[np.bool_], tables: Tables = one_by_one
) -> Iterator[tuple[npt.NDArray[np.int64], pa.Table]]:
    """The second pass: the ``wanted [n]`` rows of a survey in input order, with their numbers.

    Raises DataError when the input is no longer what was surveyed.
    """
    done = 0
    read = [0] * len(found.sources)
    for position, table in tables(found.sources, found.extract):
        read[position] += table.num_rows
        numbers = np.flatnonzero(wanted[done : done + table.num_rows])
        rows = table.select([name for name in ("id", "text", "text_pair") if name in table.column_names])
        rows = rows.take(pa.array(numbers))
        cells = pa.array(found.codes[done + numbers])
        rows = rows.append_column("positive", found.positive.take(cells))
        yield done + numbers, rows.append_column("unknown", found.unknown.take(cells))
        done += table.num_rows
    if read != list(found.rows):
        raise DataError(f"{found.place}: changed while it was read; run the command again")


def read_labelled(
    path: str | os.PathLike[str],
    config: DataConfig | None = None,
    *,
    space: LabelSpace | None = None,
    problem_type: ProblemType | None = None,
    prefer: TextSource | None = None,
) -> LabelledRows:
    """Read labelled input whole; see :func:`rayclf.data.survey.survey` for the arguments and what it raises."""
    found = survey(path, config or DataConfig(), space=space, problem_type=problem_type, prefer=prefer)
    wanted = np.zeros(len(found.codes), bool)
    wanted[found.kept] = True
    table = pa.concat_tables(rows for _, rows in canonical_batches(found, wanted)).combine_chunks()
    assert found.extract.label is not None
    return LabelledRows(table, found.space, found.extract.reads, found.extract.label, len(found.rejects))
