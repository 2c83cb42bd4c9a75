"""CSV and TSV files: by the book, and the loosely quoted JSON that hosted platforms print in their guides."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from rayclf.data.reading import Rejects, Values, check_names, open_text, string_table, unpacked_name
from rayclf.errors import DataError

csv.field_size_limit(2**31 - 1)  # a field may be a whole book; the default of 128 KiB refuses it

# "some text", "{"Label_1": 1}": JSON whose quotes are not doubled. Well-formed CSV cannot hold a quote, a brace, a
# quote and then a name, so this never takes a proper file for a loose one.
_LOOSE = re.compile(r',\s*"\{\s*"[^",\n][^"\n]*"\s*:')
_LOOSE_ROW = re.compile(r'^\s*(?:"(?P<quoted>.*)"|(?P<plain>.*?))\s*,\s*"(?P<json>\{.*\})"\s*$', re.DOTALL)
_LOOSE_SEAM = re.compile(r'"\s*(,[^\n]*)?\r?\n\s*"')  # one row's end and the next one's beginning
_HEAD = 1000  # lines that show how a file is quoted


class Dialect(NamedTuple):
    """How a proper CSV file is written: its delimiter, and whether fields are quoted after a space."""

    delimiter: str
    spaced: bool

    def reader(self, lines: Iterable[str]) -> Any:
        """A ``csv.reader`` of ``lines``, which keep their ends."""
        return csv.reader(lines, delimiter=self.delimiter, skipinitialspace=self.spaced, strict=True)


def csv_batches(
    place: str, rows: int, wanted: Collection[str] | None = None, rejects: Rejects | None = None
) -> Iterator[pa.Table]:
    """The file as tables of at most ``rows`` rows; raises DataError that names the line of broken syntax."""
    lenient = rejects is not None
    dialect = find_dialect(place, lenient=lenient)
    with open_text(place, lenient=lenient) as text:
        if dialect is None:
            records = _loose_records(text, place)
        else:
            records = _strict_records(dialect.reader(text), place, rejects)
        names = column_names(next(records), place)
        kept = [i for i, name in enumerate(names) if wanted is None or name in wanted]
        yield from _batched(records, {names[i]: i for i in kept}, rows, place, rejects)


def csv_range(
    lines: Iterable[str],
    place: str,
    dialect: Dialect,
    columns: Sequence[str],
    wanted: Collection[str] | None,
    line: int,
    rejects: Rejects,
) -> pa.Table:
    """Some rows of a proper CSV file of ``columns``: those of ``lines``, before which the file has ``line`` lines.

    ``rejects`` counts the rows from 1 and names lines as they are in the file.
    """
    records = _strict_records(dialect.reader(lines), place, rejects, width=len(columns), row=1, before=line)
    names = {name: i for i, name in enumerate(columns) if wanted is None or name in wanted}
    return next(_batched(records, names, sys.maxsize, place, rejects))


def find_dialect(place: str, *, lenient: bool = False) -> Dialect | None:
    """How the file is written, told by its first lines; None for loosely quoted JSON.

    Raises DataError for an empty file.
    """
    with open_text(place, lenient=lenient) as text:
        head = list(islice(text, _HEAD))
    if not "".join(head).strip():
        raise DataError(f"{place}: the file is empty")
    if any(_LOOSE.search(line) for line in head):
        return None
    mark = _delimiter(place, next(line for line in head if line.strip("\r\n")))
    return Dialect(mark, _is_spaced("".join(head), mark))


def column_names(header: Sequence[str | None], place: str) -> list[str]:
    """The names in a header; raises DataError when two are the same."""
    names = [str(name).strip() for name in header]
    check_names(names, place)
    return names


def _delimiter(place: str, header: str) -> str:
    if unpacked_name(place).endswith(".tsv"):
        return "\t"
    return max(",;\t", key=lambda mark: (header.count(mark), mark == ","))


def _is_spaced(head: str, mark: str) -> bool:
    """Whether fields are quoted after a space, ``a, "b"``: such a mark, space and quote outside of quoted fields."""
    quoted = rf'(?:(?<=[{mark}\r\n])|^)"(?:[^"]|"")*(?:"|$)'
    return bool(re.search(rf'[{mark}] +"', re.sub(quoted, "", head)))


def next_record(reader: Any, place: str, before: int = 0) -> list[str] | None:
    """The next record, empty for a blank line, None at the end; raises DataError that names its first line.

    ``before`` is how many lines of the file come before the reader's first.
    """
    line = before + reader.line_num + 1  # of the record's start: an open quote shows only lines later
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{place}: line {line}: broken CSV ({error}); double the quotes inside a field") from None


def _strict_records(
    reader: Any, place: str, rejects: Rejects | None, *, width: int = 0, row: int = 0, before: int = 0
) -> Iterator[Sequence[str | None]]:
    """The records, blank lines left out, all of the first one's ``width`` if it is not given.

    ``row`` is the number of the first, which is 0 for the header.
    """
    while True:
        line = before + reader.line_num + 1
        record = next_record(reader, place, before)
        if record is None:
            return
        if not record:
            continue
        width = width or len(record)
        if len(record) != width:
            reason = f"line {line}: {len(record)} fields where the header has {width}"
            if rejects is None:
                raise DataError(f"{place}: {reason}")
            rejects[row] = reason
            yield [None] * width
        else:
            yield record
        row += 1


def _loose_records(text: io.TextIOWrapper, place: str) -> Iterator[Sequence[str | None]]:
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


def _batched(
    records: Iterator[Sequence[str | None]], names: Mapping[str, int], rows: int, place: str, rejects: Rejects | None
) -> Iterator[pa.Table]:
    done = 0
    batch: list[Sequence[str | None]] = []

    def table() -> pa.Table:
        columns: dict[str, Values] = {name: [record[i] for record in batch] for name, i in names.items()}
        return string_table(columns, place, done + 1, rejects)

    for record in records:
        batch.append(record)
        if len(batch) == rows:
            yield table()
            done += len(batch)
            batch = []
    yield table()
