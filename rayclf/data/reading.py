"""What the readers of all formats share: opening files as bytes or text, and making tables of strings."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from rayclf import storage
from rayclf.errors import DataError

Values = list[str | None]


@contextmanager
def open_binary(place: str) -> Iterator[Any]:
    """The bytes of a file, unpacked if it is gzipped; raises DataError when it cannot be read or is cut short."""
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
def open_text(place: str, newline: str = "") -> Iterator[io.TextIOWrapper]:
    """The text of a file, unpacked if it is gzipped, without a byte order mark; raises DataError if not UTF-8."""
    with open_binary(place) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline=newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def string_table(columns: dict[str, Values], place: str, first_row: int) -> pa.Table:
    """A table of ``string`` columns; raises DataError for a lone surrogate, naming row and column."""
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


def check_names(names: list[str], place: str) -> None:
    """Raise DataError when two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{place}: duplicate column names: {', '.join(twice)}; rename them")
