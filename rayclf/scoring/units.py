"""Units: the parts of an input that are scored and written as one file each, all or nothing.

Units are cut by rows. Each knows where its rows lie, so that it is read without the rest of its file: row groups of
Parquet, a range of bytes of a text file. A packed text file is unpacked from its beginning for each of its units, and
loosely quoted JSON is read from it: many packed files are better than one that is large.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import pyarrow as pa

from rayclf import storage
from rayclf.data.csv_files import Dialect, csv_batches, csv_range
from rayclf.data.extract import with_partitions
from rayclf.data.formats import format_of, jsonl_range, open_parquet
from rayclf.data.reading import Rejects, decoded, read_range
from rayclf.data.sources import Source, find_sources, partitions_of
from rayclf.errors import DataError
from rayclf.scoring.index import STEP, TextIndex, index_csv, index_jsonl
from rayclf.scoring.parquet_rows import read_rows

_MOST, _UNITS = 65_536, 64


@dataclass(frozen=True)
class InputFile:
    """One input file as it was planned: its place below the input, which names its rows, its columns, its version.

    ``index`` tells where the rows of a text file are.
    """

    path: str
    source: str
    rows: int
    schema: pa.Schema
    version: dict[str, Any]
    index: TextIndex | None = None

    def to_json(self, size: int = STEP) -> dict[str, Any]:
        """The form in the plan, for units of ``size`` rows."""
        value = {"path": self.path, "source": self.source, "rows": self.rows, **self.version}
        index = self.index_for(size)
        return value if index is None else {**value, "index": index.to_json()}

    def index_for(self, size: int) -> TextIndex | None:
        """Where units of ``size`` rows begin in a text file; it is read again where marks from a plan do not fit."""
        if self.index is None:
            return None
        index = self.index if size % self.index.step == 0 else _index(self.path)
        return index.thinned(size)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputFile:
        """The file as its plan tells it, to cut it into units. A Parquet file's columns are not in the plan."""
        version = {key: item for key, item in value.items() if key not in ("path", "source", "rows", "index")}
        index = TextIndex.from_json(value["rows"], value["index"]) if "index" in value else None
        schema = _schema(index.columns if index else (), value["source"])
        return cls(value["path"], value["source"], value["rows"], schema, version, index)


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` (from 0) to ``first + rows`` of a file. The name depends on the input alone.

    The rows of a text file are ``length`` bytes from ``start`` of the unpacked file, before which it has ``lines``
    lines; both are None for Parquet and for what must be read from its beginning. ``columns`` and ``dialect`` are the
    file's, as its header would tell them.
    """

    name: str
    path: str
    source: str
    first: int
    rows: int
    start: int | None = None
    length: int | None = None
    lines: int = 0
    columns: Sequence[str] = ()
    dialect: Sequence[Any] | None = None


class Units(Sequence[Unit]):
    """The units of files, made when they are asked for: there may be millions."""

    def __init__(self, files: Sequence[InputFile], size: int) -> None:
        """Cut ``files`` into units of ``size`` rows; raises ValueError where an index has no mark at their ends."""
        self.files, self.size = files, size
        self._indexes = [file.index_for(size) for file in files]
        self._ends = list(accumulate(-(-file.rows // size) for file in files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Unit]:
        for position, file in enumerate(self.files):
            for number in range(-(-file.rows // self.size)):
                yield self._unit(position, number)

    @overload
    def __getitem__(self, place: int) -> Unit: ...
    @overload
    def __getitem__(self, place: slice) -> list[Unit]: ...
    def __getitem__(self, place: int | slice) -> Unit | list[Unit]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        position = bisect_right(self._ends, place)
        return self._unit(position, place - (self._ends[position - 1] if position else 0))

    def _unit(self, position: int, number: int) -> Unit:
        file, index = self.files[position], self._indexes[position]
        first = number * self.size
        name, rows = f"{position:05d}-{number:06d}", min(self.size, file.rows - first)
        if index is None:
            return Unit(name, file.path, file.source, first, rows)
        if not index.starts:
            return Unit(name, file.path, file.source, first, rows, columns=index.columns)
        start = index.starts[number]
        end = index.starts[number + 1] if number + 1 < len(index.starts) else index.size
        at = (start, end - start, index.lines[number])
        return Unit(name, file.path, file.source, first, rows, *at, columns=index.columns, dialect=index.dialect)


def find_files(source: str | os.PathLike[str]) -> dict[str, str]:
    """The data files of an input and their places below it: a file, those in a folder, or those a glob matches, sorted.

    Raises DataError when there are none.
    """
    return {found.path: found.name for found in find_sources(source)}


def look_at(path: str, source: str, saved: Mapping[str, Any] | None = None) -> InputFile:
    """Count the rows and columns of a file; ``source`` is its place below the input.

    Of Parquet only the footer is read. A text file is read through, unless ``saved``, its entry in the plan of the same
    job, is of the version that the file has now. Rows that alone are broken count: they come out with an error. The
    columns of JSONL are those of the first 1,000 records; what comes later under other names is left out. Folders
    named ``key=value`` add a column. Raises DataError for a file that cannot be read or holds no rows.
    """
    form, version = format_of(path), storage.size_and_version(path)
    if form == "parquet":
        with open_parquet(path) as file:
            rows, schema = file.metadata.num_rows, _schema(file.schema_arrow.remove_metadata(), source)
        index = None
    else:
        if saved is not None and saved.get("source") == source and version.items() <= saved.items():
            return InputFile.from_json(saved)
        index = _index(path)
        rows, schema = index.rows, _schema(index.columns, source)
    if rows == 0:
        raise DataError(f"{path}: holds no rows")
    return InputFile(path, source, rows, schema, version, index)


def _index(path: str) -> TextIndex:
    return index_csv(path) if format_of(path) == "csv" else index_jsonl(path)


def _schema(columns: pa.Schema | Sequence[str], source: str) -> pa.Schema:
    """The columns of a file, and those that its folders give, which win."""
    fields = list(columns) if isinstance(columns, pa.Schema) else [pa.field(name, pa.string()) for name in columns]
    given = partitions_of(source)
    return pa.schema([f for f in fields if f.name not in given] + [pa.field(name, pa.string()) for name in given])


def rows_a_unit(total: int) -> int:
    """About 64 units an input, of 512 to 65,536 rows, a multiple of 512: a choice that depends on the input alone."""
    return max(STEP, min(_MOST, total // _UNITS // STEP * STEP))


def plan_units(files: Sequence[InputFile], size: int) -> Units:
    """Cut each file into units of ``size`` rows, a multiple of 512."""
    return Units(files, size)


def count_units(files: Sequence[InputFile], size: int) -> int:
    """How many units of ``size`` rows the files make."""
    return sum(-(-file.rows // size) for file in files)


def read_unit(unit: Unit, columns: Collection[str] | None = None) -> tuple[pa.Table, dict[int, str]]:
    """The rows of a unit, all of them in order, and by position (from 0) why a row is broken, without its text.

    Typed columns from Parquet, ``string`` columns from text files, where a broken row is one of nulls; only
    ``columns`` if given. Raises DataError when the file is damaged or is not the one that was planned.
    """
    rejects = Rejects()
    if format_of(unit.path) == "parquet":
        table = read_rows(unit.path, unit.first, unit.rows, columns, rejects)
    elif unit.start is None or unit.length is None:
        table = _read_loose(unit, columns, rejects)
    else:
        table = _read_range(unit, unit.start, unit.length, columns, rejects)
    if table.num_rows != unit.rows:
        raise DataError(
            f"{unit.path}: {table.num_rows} rows from row {unit.first + 1} where {unit.rows} were planned: the file "
            "changed; put it back, or score it anew with --overwrite"
        )
    given = Source(unit.path, unit.source, 0, "", partitions_of(unit.source))
    table = with_partitions(table, given, None if columns is None else set(columns))
    return table, {row - 1: why for row, why in rejects.items()}


def _read_range(unit: Unit, start: int, length: int, columns: Collection[str] | None, rejects: Rejects) -> pa.Table:
    content, first = read_range(unit.path, start, length), start == 0
    if unit.dialect is not None:
        lines = decoded(content, newline="", first=first)
        return csv_range(lines, unit.path, Dialect(*unit.dialect), unit.columns, columns, unit.lines, rejects)
    wanted = [name for name in unit.columns if columns is None or name in columns]
    return jsonl_range(decoded(content, newline="\n", first=first), unit.path, wanted, unit.lines, rejects)


def _read_loose(unit: Unit, columns: Collection[str] | None, rejects: Rejects) -> pa.Table:
    found, end = Rejects(), unit.first + unit.rows
    tables, rows = [], 0
    for table in csv_batches(unit.path, STEP, columns, found):
        if rows + table.num_rows > unit.first:
            tables.append(table.slice(max(0, unit.first - rows)))
        rows += table.num_rows
        if rows >= end:
            break
    rejects.update({row - unit.first: why for row, why in found.items() if unit.first < row <= end})
    return pa.concat_tables(tables).slice(0, unit.rows)
