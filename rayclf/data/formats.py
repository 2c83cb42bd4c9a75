"""CSV, TSV, JSONL and Parquet files, also gzipped, to Arrow tables.

For training every column becomes text, so that the same data reads the same from any format: numbers and booleans
as they are written, nested values as JSON, null kept apart from empty. Syntax errors name the file and line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.errors import DataError

EXTENSIONS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
Values = list[str | None]

csv.field_size_limit(2**31 - 1)  # a field may be a whole book; the default of 128 KiB refuses it


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
    reader = {"csv": _csv_batches, "jsonl": _jsonl_batches, "parquet": _parquet_batches}[form]
    empty = True
    for table in reader(place, rows):
        empty = empty and table.num_rows == 0
        yield table
    if empty:
        raise DataError(f"{place}: holds no rows")


def read_table(path: str | os.PathLike[str]) -> pa.Table:
    """The whole file as one table of ``string`` columns; see :func:`read_batches` for what it raises."""
    return pa.concat_tables(read_batches(path), promote_options="default").combine_chunks()


@contextmanager
def _open_binary(place: str) -> Iterator[Any]:
    filesystem, inner = storage.resolve(place)
    try:
        source = filesystem.open_input_file(inner)
    except OSError as error:
        raise DataError(f"{place}: cannot be read ({error})") from None
    with source as raw:
        if not place.lower().endswith(".gz"):
            yield raw
            return
        with gzip.open(raw) as unpacked:
            try:
                yield unpacked
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(f"{place}: not a whole gzip file ({error})") from None


@contextmanager
def _open_text(place: str, newline: str = "") -> Iterator[io.TextIOWrapper]:
    with _open_binary(place) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def _table(columns: dict[str, Values], place: str, first_row: int) -> pa.Table:
    try:
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    except UnicodeEncodeError:
        name = next((i for i in [_surrogate(tuple(columns))] if i is not None), None)
        if name is not None:
            raise DataError(f"{place}: column name {list(columns)[name]!a}: not valid Unicode") from None
        bad = next(i for v in zip(*columns.values(), strict=True) for i in [_surrogate(v)] if i is not None)
        row = next(i for i, v in enumerate(zip(*columns.values(), strict=True)) if _surrogate(v) is not None)
        raise DataError(f"{place}: row {first_row + row}, column '{list(columns)[bad]}': not valid Unicode") from None


def _surrogate(values: tuple[str | None, ...]) -> int | None:
    return next((i for i, v in enumerate(values) if v and any("\ud800" <= c <= "\udfff" for c in v)), None)


# --- CSV and TSV ------------------------------------------------------------------------------------------------

# "some text", "{"Label_1": 1}": JSON whose quotes are not doubled. Well-formed CSV cannot hold a quote, a brace, a
# quote and then a name, so this never takes a proper file for a loose one.
_LOOSE = re.compile(r',\s*"\{\s*"[^",\n][^"\n]*"\s*:')
_LOOSE_ROW = re.compile(r'^\s*(?:"(?P<quoted>.*)"|(?P<plain>.*?))\s*,\s*"(?P<json>\{.*\})"\s*$', re.DOTALL)
_LOOSE_SEAM = re.compile(r'"\s*(,[^\n]*)?\r?\n\s*"')  # one row's end and the next one's beginning
_HEAD = 1000  # lines that show how a file is quoted


def _csv_batches(place: str, rows: int) -> Iterator[pa.Table]:
    with _open_text(place) as text:
        head = list(islice(text, _HEAD))
    if not "".join(head).strip():
        raise DataError(f"{place}: the file is empty")
    with _open_text(place) as text:
        if any(_LOOSE.search(line) for line in head):
            records = _loose_records(text, place)
        else:
            mark = _delimiter(place, next(line for line in head if line.strip("\r\n")))
            reader = csv.reader(text, delimiter=mark, skipinitialspace=_is_spaced("".join(head), mark), strict=True)
            records = _strict_records(reader, place)
        names = [name.strip() for name in next(records)]
        _check_names(names, place)
        yield from _batched(records, names, rows, place)


def _delimiter(place: str, header: str) -> str:
    if place.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    return max(",;\t", key=lambda mark: (header.count(mark), mark == ","))


def _is_spaced(head: str, mark: str) -> bool:
    """Whether fields are quoted after a space, ``a, "b"``: such a mark, space and quote outside of quoted fields."""
    quoted = rf'(?:(?<=[{mark}\r\n])|^)"(?:[^"]|"")*(?:"|$)'
    return bool(re.search(rf'[{mark}] +"', re.sub(quoted, "", head)))


def _strict_records(reader: Any, place: str) -> Iterator[list[str]]:
    width = None
    while True:
        line = reader.line_num + 1  # of the row's start: an open quote shows only lines later
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{place}: line {line}: broken CSV ({error}); double the quotes inside a field") from None
        if not record:
            continue  # a blank line
        width = width or len(record)
        if len(record) != width:
            raise DataError(f"{place}: line {line}: {len(record)} fields where the header has {width}")
        yield record


def _loose_records(text: io.TextIOWrapper, place: str) -> Iterator[list[str]]:
    """Rows of text and JSON. A text may hold commas, quotes and, where it is quoted, line breaks."""
    line = text.readline()
    header = next(csv.reader([line], skipinitialspace=True))
    if len(header) != 2 or _LOOSE.search(line):
        raise DataError(
            f"{place}: line 1: loosely quoted JSON needs a header of two column names; write proper CSV or JSONL"
        )
    yield header
    pending: list[str] = []
    first = 2
    for number, line in enumerate(text, start=2):
        if not pending and not line.strip():
            continue
        first = first if pending else number
        pending.append(line)
        found = _LOOSE_ROW.match("".join(pending)) if line.rstrip().endswith('}"') else None
        if found:
            prompt = found["plain"] if found["quoted"] is None else found["quoted"].replace('""', '"')
            if len(pending) > 1 and (found["quoted"] is None or _LOOSE_SEAM.search(prompt) or _LOOSE.search(prompt)):
                break  # a broken row would be taken for the beginning of the next one's text
            yield [prompt, found["json"].replace('""', '"')]
            pending = []
    if pending:
        raise DataError(
            f'{place}: line {first}: broken row; it must be quoted and end in "{{"Label": 1, …}}", or write proper CSV'
        )


def _check_names(names: list[str], place: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{place}: duplicate column names: {', '.join(twice)}; rename them")


def _batched(records: Iterator[list[str]], names: list[str], rows: int, place: str) -> Iterator[pa.Table]:
    done = 0
    batch: list[list[str]] = []

    def table() -> pa.Table:
        columns: dict[str, Values] = {name: [record[i] for record in batch] for i, name in enumerate(names)}
        return _table(columns, place, done + 1)

    for record in records:
        batch.append(record)
        if len(batch) == rows:
            yield table()
            done += len(batch)
            batch = []
    yield table()


# --- JSONL ------------------------------------------------------------------------------------------------------


def _jsonl_batches(place: str, rows: int) -> Iterator[pa.Table]:
    columns: dict[str, Values] = {}
    done = count = 0
    with _open_text(place, newline="\n") as text:
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
                yield _table(columns, place, done + 1)
                done, count = done + count, 0
                columns = {name: [] for name in columns}
    yield _table(columns, place, done + 1)


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
    _check_names(names, os.fspath(path))
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
