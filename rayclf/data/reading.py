"""What the readers of all formats share: opening files as bytes or text, and making tables of strings."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from rayclf import storage
from rayclf.errors import DataError
from rayclf.storage_errors import failure

Values = list[str | None]
_BUFFER = 2**20  # bytes of one request: an object store answers each in many milliseconds
PACKED = (".gz", ".zst", ".zstd")


class Rejects(dict[int, str]):
    """Rows of a file, counted from 1, that cannot be read, and why. Each stays in its table as a row of nulls."""


def unpacked_name(name: str) -> str:
    """A file's name in lower case without the ending of its compression."""
    name = _bare(name)
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def is_packed(place: str) -> bool:
    """Whether the file is gzipped or zstandard, by its name."""
    return _bare(place).endswith(PACKED)


def _bare(place: str) -> str:
    """A path in lower case; of a URI without its options (``?region=…``)."""
    return (place.partition("?")[0] if "://" in place else place).lower()


@contextmanager
def open_binary(place: str) -> Iterator[Any]:
    """The bytes of a file, unpacked if it is gzipped or zstandard; raises DataError if unreadable or cut short."""
    filesystem, inner = storage.resolve(place)
    name = _bare(place)
    try:
        with filesystem.open_input_stream(inner, compression=None, buffer_size=_BUFFER) as raw:
            if name.endswith(".gz"):
                with gzip.open(raw) as unpacked:
                    yield unpacked
            elif name.endswith(PACKED):
                with pa.CompressedInputStream(raw, "zstd") as unpacked:
                    yield unpacked
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not a whole gzip file ({error})") from None
    except OSError as error:
        if name.endswith((".zst", ".zstd")) and ("://" not in place or "zstd" in str(error).lower()):
            raise DataError(f"{place}: not a whole zstandard file ({error})") from None
        raise failure(place, error) from None


def read_range(place: str, start: int, length: int) -> bytes:
    """``length`` bytes of the unpacked file from ``start`` (fewer at its end); raises as :func:`open_binary` does.

    Of a plain file only these are read, by one request of an object store; of a packed one all before them too.
    """
    if is_packed(place):
        with open_binary(place) as raw:
            while start > 0 and (skipped := len(raw.read(min(start, _BUFFER)))):
                start -= skipped
            # A read may give fewer bytes than were asked for, but none only at the end.
            parts: list[bytes] = []
            while length > 0 and (part := raw.read(length)):
                parts.append(part)
                length -= len(part)
            return b"".join(parts)
    filesystem, inner = storage.resolve(place)
    try:
        with filesystem.open_input_file(inner) as file:
            content: bytes = file.read_at(length, start)
    except OSError as error:
        raise failure(place, error) from None
    return content


def decoded(content: bytes, newline: str, *, first: bool) -> io.TextIOWrapper:
    """A part of a file as :func:`open_text` gives it where it is ``lenient``; only the ``first`` can have the mark."""
    encoding = "utf-8-sig" if first else "utf-8"
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors="surrogateescape", newline=newline)


@contextmanager
def open_text(place: str, newline: str = "", *, lenient: bool = False) -> Iterator[io.TextIOWrapper]:
    """The text of a file, unpacked, without a byte order mark; raises DataError if not UTF-8.

    ``lenient`` lets bytes that are not UTF-8 through as lone surrogates, for :func:`string_table` to reject their rows.
    """
    with open_binary(place) as raw:
        errors = "surrogateescape" if lenient else "strict"
        text = io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline=newline)
        try:
            yield text
        except UnicodeDecodeError as error:
            raise DataError(f"{place}: not UTF-8 ({error.reason}); convert the file to UTF-8") from None


def string_table(columns: dict[str, Values], place: str, first_row: int, rejects: Rejects | None = None) -> pa.Table:
    """A table of ``string`` columns.

    A row with a lone surrogate, which is not valid Unicode, goes to ``rejects``, or raises DataError without.
    """
    try:
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    except UnicodeEncodeError:
        names = list(columns)
        if (name := _surrogate(names)) is not None:
            raise DataError(
                f"{place}: column name {names[name]!a}: not valid Unicode; convert the file to UTF-8"
            ) from None
        for position, values in enumerate(zip(*columns.values(), strict=True)):
            if (bad := _surrogate(values)) is not None:
                if rejects is None:
                    raise DataError(
                        f"{place}: row {first_row + position}, column '{names[bad]}': not valid Unicode"
                    ) from None
                rejects[first_row + position] = f"column '{names[bad]}': not valid Unicode (UTF-8)"
                for column in columns.values():
                    column[position] = None
        return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _surrogate(values: Collection[str | None]) -> int | None:
    return next((i for i, v in enumerate(values) if v and any("\ud800" <= c <= "\udfff" for c in v)), None)


def check_names(names: list[str], place: str) -> None:
    """Raise DataError when two columns have one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{place}: duplicate column names: {', '.join(twice)}; rename them")
