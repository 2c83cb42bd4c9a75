"""The first pass over labelled input: everything that can be decided without the texts, in a few bytes a row.

A survey holds a hash of each row's text, the number of its label cell, and the reason where a row cannot be used.
Label space, split, rebalancing, duplicates and counts follow from it; only then are texts read again and written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.config import DataConfig
from rayclf.data.columns import find_columns
from rayclf.data.extract import Extract, identities, with_partitions
from rayclf.data.formats import read_batches
from rayclf.data.label_cells import LabelColumn, read_label_column
from rayclf.data.label_files import Label
from rayclf.data.reading import Rejects
from rayclf.data.sources import Source, find_sources
from rayclf.data.targets import OUTSIDE, encode, infer_space, missing_labels
from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.storage_errors import shown

Tables = Callable[[Sequence[Source], Extract], Iterable[tuple[int, pa.Table]]]
InferSpace = Callable[[LabelColumn, ProblemType | None, Sequence[Label]], LabelSpace]
_SAMPLE = 10_000  # rows by which columns are found


@dataclass(frozen=True)
class Survey:
    """What is known of every row that was read, in input order, rejected ones included.

    ``identity [n]`` is the hash of its text, ``codes [n]`` the number of its label cell, ``split [n]`` the values of
    the split column; ``positive`` and ``unknown`` are the label positions of each cell; ``rejects`` maps the row's
    number to what is wrong with it. ``rows`` counts those of each source.
    """

    place: str
    sources: tuple[Source, ...]
    rows: tuple[int, ...]
    extract: Extract
    space: LabelSpace
    identity: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.int32]
    split: list[str | None] | None
    positive: pa.ListArray
    unknown: pa.ListArray
    rejects: dict[int, str]

    @property
    def usable(self) -> npt.NDArray[np.int64]:
        """``[n]``: 1 for a row that can be used, 0 for a rejected one."""
        usable = np.ones(len(self.codes), np.int64)
        usable[list(self.rejects)] = 0
        return usable

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """The numbers of the rows that can be used."""
        return np.flatnonzero(self.usable)

    def positives(self, rows: npt.NDArray[np.int64]) -> pa.ListArray:
        """The label positions that hold in each of ``rows``."""
        return self.positive.take(pa.array(self.codes[rows]))

    def label_counts(self, times: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """In how many rows each label holds, and is unknown, where row i counts ``times[i]`` times."""
        cells = np.bincount(self.codes, weights=times, minlength=len(self.positive)).astype(np.float64)
        return _weighted(self.positive, cells, len(self.space)), _weighted(self.unknown, cells, len(self.space))

    def where(self, row: int) -> tuple[Source, int]:
        """The file of a row, and its number there, counted from 1."""
        return _locate(self.sources, self.rows, row)


def _weighted(lists: pa.ListArray, weights: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    each = np.repeat(weights, np.diff(lists.offsets.to_numpy()))
    return np.bincount(lists.flatten().to_numpy(), weights=each, minlength=size).astype(np.int64)


def one_by_one(sources: Sequence[Source], extract: Extract) -> Iterator[tuple[int, pa.Table]]:
    """The tables of each source with its position, read in this process."""
    for position, source in enumerate(sources):
        for table in extract(source):
            yield position, table


def survey(
    place: str | os.PathLike[str],
    config: DataConfig,
    *,
    space: LabelSpace | None = None,
    declared: Sequence[Label] = (),
    problem_type: ProblemType | None = None,
    prefer: TextSource | None = None,
    tables: Tables = one_by_one,
    look: Callable[[pa.Table], None] = lambda table: None,
    infer: InferSpace = infer_space,
) -> Survey:
    """Read labelled input once.

    With ``space`` the labels must lie in it (evaluation, a test file); without, it is inferred, among the ``declared``
    labels if there are any. ``prefer`` is what to
    read as text where the input has its columns and ``config`` names none. ``look`` gets every table in passing;
    ``infer`` takes the place of :func:`infer_space` where labels that cannot be trained on are to be shown.
    Raises DataError or LabelError for what cannot be read at all, and when more rows than allowed cannot be used.
    """
    sources = find_sources(place)
    extract = plan_extract(sources, config, prefer)
    rows = [0] * len(sources)
    parts: list[npt.NDArray[np.uint64]] = []
    cells: dict[str | None, int] = {}
    codes: list[npt.NDArray[np.int32]] = []
    split: list[str | None] | None = [] if extract.split_column else None
    problems: dict[int, str] = {}
    done = 0
    for position, table in tables(sources, extract):
        look(table)
        parts.append(identities(table))
        codes.append(_code(table["label"], cells))
        if split is not None:
            split += table["split"].to_pylist()
        if table["problem"].null_count < table.num_rows:
            told = enumerate(table["problem"].to_pylist(), start=done)
            problems |= {row: reason for row, reason in told if reason is not None}
        rows[position] += table.num_rows
        done += table.num_rows
    numbers = np.concatenate(codes)
    column = read_label_column(
        pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array(numbers), pa.array(list(cells), pa.string()))]),
        shown(place),
        extract.label or "",
        config.separator,
        lenient=True,
    )
    _ignore_cells(column, numbers, problems)
    check = partial(_check_rejects, column=column, sources=sources, rows=rows, config=config)
    check(_rejects(column, numbers, problems))  # else the label space would be blamed for what bad rows lack
    space = space or infer(column, problem_type, declared)
    positive, unknown = encode(column, space)
    rejects = _rejects(column, numbers, problems)
    check(rejects)
    identity = np.concatenate(parts)
    return Survey(
        shown(place), tuple(sources), tuple(rows), extract, space, identity, numbers, split, positive, unknown, rejects
    )


def plan_extract(sources: Sequence[Source], config: DataConfig, prefer: TextSource | None = None) -> Extract:
    """Decide by the first rows which columns are read; raises DataError or AmbiguousColumn as the finders do."""
    first, sample = sources[0], first_rows(sources)
    reads, label = find_columns(sample, shown(first.path), config, prefer)
    by = config.split_column if config.split in ("group", "time") else None
    if config.split in ("group", "time") and by is None:
        raise DataError(f"data.split: {config.split} needs data.split_column; name it with --split-column")
    if by is not None and by not in sample.column_names:
        raise DataError(f"{shown(first.path)}: no column '{by}'; --split-column must name one of: "
                        f"{', '.join(sample.column_names)}")  # fmt: skip
    return Extract(reads, label, by)


def first_rows(sources: Sequence[Source]) -> pa.Table:
    """The first 10,000 rows of an input, all columns, by which roles are found; raises DataError if there are none."""
    broken: list[str] = []
    for source in sources:
        rejects = Rejects()
        table = next(read_batches(source.path, _SAMPLE, rejects=rejects, may_be_empty=True), None)
        if table is not None and table.num_rows:
            return with_partitions(table, source)
        broken += [_told(source, row, reason) for row, reason in sorted(rejects.items())]
    if broken:
        more = f" (and {len(broken) - 1} more rows)" if len(broken) > 1 else ""
        raise DataError(f"{broken[0]}{more}; no row can be read")
    more = "" if len(sources) == 1 else f", nor do the {len(sources) - 1} files after it"
    raise DataError(f"{shown(sources[0].path)}: holds no rows{more}")


def _code(column: pa.ChunkedArray, cells: dict[str | None, int]) -> npt.NDArray[np.int32]:
    """The number of each row's cell; ``cells`` grows by those not seen before."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    own = [cells.setdefault(text, len(cells)) for text in encoded.dictionary.to_pylist()]
    return np.array(own, np.int32)[encoded.indices.to_numpy()] if own else np.empty(0, np.int32)


def _ignore_cells(column: LabelColumn, codes: npt.NDArray[np.int32], problems: dict[int, str]) -> None:
    """Cells that only rejected rows hold say nothing about the label space."""
    if not problems:
        return
    usable = np.ones(len(codes), bool)
    usable[list(problems)] = False
    for cell in np.flatnonzero(np.bincount(codes[usable], minlength=len(column.cells)) == 0):
        column.cells[cell] = None


def _rejects(column: LabelColumn, codes: npt.NDArray[np.int32], problems: dict[int, str]) -> dict[int, str]:
    """Every rejected row and why, in order: for itself, or for its label cell."""
    if not column.bad:
        return dict(sorted(problems.items()))
    rows = np.flatnonzero(np.isin(codes, list(column.bad)))
    return dict(sorted(({int(row): column.bad[int(codes[row])] for row in rows} | problems).items()))


def _check_rejects(
    rejects: dict[int, str],
    *,
    column: LabelColumn,
    sources: Sequence[Source],
    rows: Sequence[int],
    config: DataConfig,
) -> None:
    """Raise DataError that names the first rejected row when there are more than ``config`` allows, LabelError when it
    is labels that are missing from the label space."""
    count, total = len(rejects), sum(rows)
    allowed = 0 if config.on_error == "fail" else int(config.max_rejected * total)
    if count <= allowed:
        return
    number, reason = next(iter(rejects.items()))
    source, row = _locate(sources, rows, number)
    if column.missing and reason.endswith(OUTSIDE):
        raise missing_labels(column, f"{shown(source.path)}: row {row}")
    more = f" (and {count - 1} more rows)" if count > 1 else ""
    limit = f"; {count} of {total} rows cannot be used, data.max_rejected allows {allowed}" if allowed else ""
    raise DataError(f"{_told(source, row, reason)}{more}{limit}")


def _told(source: Source, row: int, reason: str) -> str:
    where = "" if reason.startswith("line ") else f"row {row}, "
    return f"{shown(source.path)}: {where}{reason}"


def _locate(sources: Sequence[Source], rows: Sequence[int], number: int) -> tuple[Source, int]:
    for source, count in zip(sources, rows, strict=True):
        if number < count:
            return source, number + 1
        number -= count
    raise IndexError(number)


def reject_counts(found: Survey) -> dict[str, int]:
    """How many rows were rejected for each reason, most frequent first."""
    return dict(Counter(found.rejects.values()).most_common())
