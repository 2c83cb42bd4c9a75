"""CSV, TSV, JSONL and Parquet files, also gzipped, to Arrow tables.

For training every column becomes text, so that the same data reads the same from any format: numbers and booleans
as they are written, nested values as JSON, null kept apart from empty. Syntax errors name the file and line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.data.csv_files import csv_batches
from rayclf.data.reading import Values, check_names, open_text, string_table
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
    name = os.fspath(path).lower().removesuffix(".gz")
    for extension, form in EXTENSIONS.items():
        if name.endswith(extension):
            return form
    raise DataError(f"{os.fspath(path)}: unknown file type; use one of {', '.join(EXTENSIONS)}, each also with .gz")


def read_batches(path: str | os.PathLike[str], rows: int = 65536) -> Iterator[pa.Table]:
    """The file as tables of at most ``rows`` rows, every column ``string``, in file order.

    Raises DataError for a missing or empty file, an unknown type, duplicate column names, and broken syntax.
    """
    place = os.fspath(path)
    form = format_of(place)
    found = storage.kind(place)
    if found != "file":
        raise DataError(f"{place}: {'is a folder, not a file' if found == 'folder' else 'no such file'}")
    reader = {"csv": csv_batches, "jsonl": _jsonl_batches, "parquet": _parquet_batches}[form]
    empty = True
    for table in reader(place, rows):
        empty = empty and table.num_rows == 0
        yield table
    if empty:
        raise DataError(f"{place}: holds no rows")


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """The whole file as one table of ``string`` columns; see :func:`read_batches` for what it raises."""
    return pa.concat_tables(read_batches(path), promote_options="default").combine_chunks()


# --- JSONL ------------------------------------------------------------------------------------------------------


def _jsonl_batches(place: str, rows: int) -> Iterator[pa.Table]:
    columns: dict[str, Values] = {}
    done = count = 0
    with open_text(place, newline="\n") as text:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            for name, value in _json_object(line, place, number).items():
                if name not in columns:
                    columns[name] = [None] * count
                columns[name].append(value)
            count += 1
            for values in columns.values():
                if len(values) < count:
                    values.append(None)
            if count == rows:
                yield string_table(columns, place, done + 1)
                done, count = done + count, 0
                columns = {name: [] for name in columns}
    yield string_table(columns, place, done + 1)


def _json_object(line: str, place: str, number: int) -> dict[str, str | None]:
    try:
        value = json.loads(line, object_pairs_hook=lambda pairs: _unique(pairs, place, number))
        if isinstance(value, dict) and value:
            return {name: _as_text(item) for name, item in value.items()}
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or a number too long"
        raise DataError(f"{place}: line {number}: broken JSON ({reason})") from None
    raise DataError(f'{place}: line {number}: must be a JSON object such as {{"text": …}}')


def _unique(pairs: list[tuple[str, Any]], place: str, number: int) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{place}: line {number}: the name '{twice}' stands twice in one JSON object")
    return value


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if value != value:
        return None  # NaN, which pandas writes for null
    return json.dumps(value, ensure_ascii=False, default=str)


# --- Parquet ----------------------------------------------------------------------------------------------------


# What Arrow raises for bytes that are no Parquet, or that decode to what cannot be; ValueError: not UTF-8, no date.
_PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


def open_parquet(path: str | os.PathLike[str]) -> pq.ParquetFile:
    """The Parquet file, its footer read; raises DataError when it is not one or names a column twice."""
    filesystem, inner = storage.resolve(path)
    try:
        file = pq.ParquetFile(inner, filesystem=filesystem)
        names = file.schema_arrow.names
    except _PARQUET_ERRORS as error:
        raise DataError(f"{os.fspath(path)}: not a Parquet file ({_reason(error)})") from None
    check_names(names, os.fspath(path))
    return file


def _parquet_batches(place: str, rows: int) -> Iterator[pa.Table]:
    with open_parquet(place) as file:
        try:
            for batch in file.iter_batches(batch_size=rows):
                yield pa.table({name: text_column(batch.column(name)) for name in batch.schema.names})
        except _PARQUET_ERRORS as error:
            raise DataError(f"{place}: damaged Parquet file ({_reason(error)})") from None


def _reason(error: Exception) -> str:
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
    try:
        return pc.cast(column, pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.array([None if v is None else _written(v) for v in column.to_pylist()], pa.string())


def _written(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
