"""CSV, TSV, JSONL and Parquet files, also packed by gzip or zstandard, to Arrow tables.

For training every column becomes text, so that the same data reads the same from any format: numbers and booleans
as they are written, nested values as JSON, null kept apart from empty. Syntax errors name the file and line.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.data.csv_files import csv_batches
from rayclf.data.reading import PACKED, Rejects, Values, check_names, open_text, string_table, unpacked_name
from rayclf.errors import DataError

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


def format_of(path: str | os.PathLike[str]) -> str:
    """``csv``, ``jsonl`` or ``parquet`` by the file's name; raises DataError for another."""
    name = unpacked_name(os.fspath(path))
    for extension, form in EXTENSIONS.items():
        if name.endswith(extension):
            return form
    raise DataError(
        f"{os.fspath(path)}: unknown file type; use one of {', '.join(EXTENSIONS)}, each also with {', '.join(PACKED)}"
    )


def read_batches(
    path: str | os.PathLike[str],
    rows: int = 65536,
    columns: Collection[str] | None = None,
    rejects: Rejects | None = None,
    *,
    may_be_empty: bool = False,
) -> Iterator[pa.Table]:
    """The file as tables of at most ``rows`` rows, every column ``string``, in file order; only ``columns`` if given.

    Raises DataError for a missing file, one without rows unless it ``may_be_empty``, an unknown type, duplicate column
    names, and broken syntax. With ``rejects``, a row that alone is broken is noted there and is a row of nulls.
    """
    place = os.fspath(path)
    form = format_of(place)
    found = storage.kind(place)
    if found != "file":
        raise DataError(f"{place}: {'is a folder, not a file' if found == 'folder' else 'no such file'}")
    reader = {"csv": csv_batches, "jsonl": _jsonl_batches, "parquet": _parquet_batches}[form]
    empty = True
    for table in reader(place, rows, columns, rejects):
        empty = empty and table.num_rows == 0
        yield table
    if empty and not may_be_empty:
        raise DataError(f"{place}: holds no rows")


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """The whole file as one table of ``string`` columns; see :func:`read_batches` for what it raises."""
    return pa.concat_tables(read_batches(path), promote_options="default").combine_chunks()


# --- JSONL ------------------------------------------------------------------------------------------------------


def _jsonl_batches(
    place: str, rows: int, wanted: Collection[str] | None = None, rejects: Rejects | None = None
) -> Iterator[pa.Table]:
    with open_text(place, newline="\n", lenient=rejects is not None) as text:
        yield from _jsonl_tables(text, place, rows, wanted, rejects)


def jsonl_range(
    lines: Iterable[str], place: str, wanted: Collection[str] | None, line: int, rejects: Rejects
) -> pa.Table:
    """Some rows of a JSONL file: those of ``lines``, before which the file has ``line`` lines; columns as ``wanted``,
    or those that are found. ``rejects`` counts the rows from 1 and names lines as they are in the file."""
    return next(_jsonl_tables(lines, place, sys.maxsize, wanted, rejects, line))


def _jsonl_tables(
    lines: Iterable[str],
    place: str,
    rows: int,
    wanted: Collection[str] | None,
    rejects: Rejects | None,
    before: int = 0,
) -> Iterator[pa.Table]:
    columns: dict[str, Values] = {name: [] for name in wanted or ()}
    done = count = 0
    for number, line in enumerate(lines, start=before + 1):
        if not line.strip():
            continue
        try:
            found = _json_object(line, wanted)
        except DataError as error:
            if rejects is None:
                raise DataError(f"{place}: line {number}: {error}") from None
            rejects[done + count + 1] = f"line {number}: {error}"
            found = {}
        for name, value in found.items():
            if name not in columns:
                columns[name] = [None] * count
            columns[name].append(value)
        count += 1
        for values in columns.values():
            if len(values) < count:
                values.append(None)
        if count == rows:
            yield string_table(columns, place, done + 1, rejects)
            done, count = done + count, 0
            columns = {name: [] for name in columns}
    if count or not done:
        yield string_table(columns, place, done + 1, rejects)


def _json_object(line: str, wanted: Collection[str] | None) -> dict[str, str | None]:
    try:
        value = json.loads(line, object_pairs_hook=_unique)
        if isinstance(value, dict) and value:
            return {name: _as_text(item) for name, item in value.items() if wanted is None or name in wanted}
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or a number too long"
        raise DataError(f"broken JSON ({reason})") from None
    raise DataError('must be a JSON object such as {"text": …}')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"the name '{twice}' stands twice in one JSON object")
    return value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if value != value:
        return None  # NaN, which pandas writes for null
    return json.dumps(value, ensure_ascii=False, default=str)


# --- Parquet ----------------------------------------------------------------------------------------------------


# What Arrow raises for bytes that are no Parquet, or that decode to what cannot be; ValueError: not UTF-8, no date.
PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


def open_parquet(path: str | os.PathLike[str]) -> pq.ParquetFile:
    """The Parquet file, its footer read; raises DataError when it is not one or names a column twice."""
    filesystem, inner = storage.resolve(path)
    try:
        file = pq.ParquetFile(inner, filesystem=filesystem)
        names = file.schema_arrow.names
    except PARQUET_ERRORS as error:
        raise DataError(f"{os.fspath(path)}: not a Parquet file ({first_line(error)})") from None
    check_names(names, os.fspath(path))
    return file


def _parquet_batches(
    place: str, rows: int, wanted: Collection[str] | None = None, rejects: Rejects | None = None
) -> Iterator[pa.Table]:
    done = 0
    with open_parquet(place) as file:
        names = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
        try:
            for batch in file.iter_batches(batch_size=rows, columns=names):
                columns = {}
                for name in names:
                    column = batch.column(name)
                    if rejects is not None and _is_binary(column.type):
                        column = _reject_bytes(column, name, done + 1, rejects)
                    columns[name] = text_column(column)
                yield pa.table(columns)
                done += batch.num_rows
        except PARQUET_ERRORS as error:
            raise DataError(f"{place}: damaged Parquet file ({first_line(error)})") from None


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string,
                                       pa.types.is_large_string))  # fmt: skip


def _reject_bytes(column: pa.Array, name: str, first_row: int, rejects: Rejects) -> pa.Array:
    """The column as ``string`` with nulls where bytes are not UTF-8, which Parquet readers do not check."""
    try:
        return column.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        values: list[str | None] = []
        for position, value in enumerate(column.cast(pa.binary()).to_pylist()):
            try:
                values.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                values.append(None)
                rejects[first_row + position] = f"column '{name}': not valid Unicode (UTF-8)"
        return pa.array(values, pa.string())


def first_line(error: Exception) -> str:
    """Of an error of Arrow's, whose messages may have many lines."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def text_column(column: pa.Array) -> pa.Array:
    """Any Arrow column as ``string``, the way the same value would be written in JSON; nulls stay, NaN is one.

    Raises ArrowInvalid for strings that are not UTF-8.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return text_column(column.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column.validate(full=True)  # Parquet readers do not check that strings are UTF-8
        return column.cast(pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_map(kind):
        as_object: Callable[[Any], str | None] = lambda v: None if v is None else _as_text(dict(v))  # noqa: E731
        return pa.array([as_object(v) for v in column.to_pylist()], pa.string())
    if pa.types.is_floating(kind) or pa.types.is_nested(kind):
        return pa.array([_as_text(v) for v in column.to_pylist()], pa.string())
    if pa.types.is_interval(kind) or _holds_bytes(kind):  # Arrow casts no interval, and bytes need not be UTF-8
        return pa.array([None if v is None else _written(v) for v in column.to_pylist()], pa.string())
    return pc.cast(column, pa.string())


def _holds_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _written(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
