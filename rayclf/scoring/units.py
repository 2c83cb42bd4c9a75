"""Units: the parts of an input that are scored and written as one file each, all or nothing."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from rayclf import storage
from rayclf.data.formats import EXTENSIONS, format_of, open_parquet, read_batches
from rayclf.errors import DataError

_LEAST, _MOST, _UNITS = 512, 65_536, 64


@dataclass(frozen=True)
class InputFile:
    """One input file as it was planned: its place below the input, which names its rows, its columns, its version."""

    path: str
    source: str
    rows: int
    schema: pa.Schema
    version: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The form in the plan."""
        return {"path": self.path, "rows": self.rows, **self.version}


@dataclass(frozen=True)
class Unit:
    """Rows ``first`` (from 0) to ``first + rows`` of a file. The name depends on the input alone."""

    name: str
    path: str
    source: str
    number: int
    first: int
    rows: int


def find_files(source: str | os.PathLike[str]) -> dict[str, str]:
    """The data files of an input and their places below it: itself, or those in the folder, sorted.

    Raises DataError when there are none.
    """
    place = os.fspath(source)
    kind = storage.kind(place)
    if kind == "missing":
        raise DataError(f"{place}: no such file or folder")
    if kind == "file":
        format_of(place)
        return {place: posixpath.basename(place.replace(os.sep, "/"))}
    names = tuple(EXTENSIONS)
    files = [file for file in storage.files_under(place) if file.lower().removesuffix(".gz").endswith(names)]
    if not files:
        raise DataError(f"{place}: no data files in this folder; rayclf reads {', '.join(EXTENSIONS)}")
    return {file: file[len(place) :].replace(os.sep, "/").lstrip("/") for file in files}


def look_at(path: str, source: str) -> InputFile:
    """Count the rows and columns of a file; all but Parquet are read through, so that broken syntax shows now."""
    if format_of(path) == "parquet":
        with open_parquet(path) as file:
            rows, schema = file.metadata.num_rows, file.schema_arrow.remove_metadata()
        if rows == 0:
            raise DataError(f"{path}: holds no rows")
    else:
        rows, seen = 0, dict[str, None]()
        for table in read_batches(path):
            rows += table.num_rows
            seen |= dict.fromkeys(table.column_names)
        schema = pa.schema([(name, pa.string()) for name in seen])
    return InputFile(path, source, rows, schema, storage.size_and_version(path))


def rows_a_unit(total: int) -> int:
    """About 64 units an input, of 512 to 65,536 rows: a choice that depends on the input alone."""
    return max(_LEAST, min(_MOST, total // _UNITS))


def plan_units(files: Sequence[InputFile], size: int) -> list[Unit]:
    """Cut each file into units of ``size`` rows."""
    return [
        Unit(
            f"{position:05d}-{number:06d}",
            file.path,
            file.source,
            number,
            first,
            min(size, file.rows - first),
        )
        for position, file in enumerate(files)
        for number, first in enumerate(range(0, file.rows, size))
    ]


def read_unit(unit: Unit, size: int) -> pa.Table:
    """The rows of a unit: typed columns from Parquet, ``string`` columns from text files."""
    if format_of(unit.path) != "parquet":
        return next(islice(read_batches(unit.path, size), unit.number, None))
    with open_parquet(unit.path) as file:
        groups: list[int] = []
        start = skipped = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if stop > unit.first and start < unit.first + unit.rows:
                skipped = skipped if groups else unit.first - start
                groups.append(group)
            start = stop
        return file.read_row_groups(groups).slice(skipped, unit.rows)
