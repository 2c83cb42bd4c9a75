"""Where the records of a text file begin, so that any part of it can be read alone.

One pass over the unpacked bytes counts the records and notes the place of every 512th. JSON is not parsed: a record of
JSONL is a line that is not blank. CSV is read as Latin-1: what gives its structure is ASCII, no byte of which is part
of another character in UTF-8, so the records are the same and each character is one byte.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rayclf.data.csv_files import Dialect, column_names, csv_batches, find_dialect, next_record
from rayclf.data.formats import jsonl_range
from rayclf.data.reading import Rejects, decoded, open_binary
from rayclf.errors import DataError

STEP = 512
_HEAD = 1000  # records of JSONL whose names are the columns
_BUFFER = 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextIndex:
    """The records of a text file: how many, the columns, and where every ``step``-th begins.

    ``starts`` are offsets in the unpacked bytes, ``size`` of them; ``lines`` counts the lines before each. Both are
    empty for loosely quoted JSON, which is read from its beginning. ``dialect`` is that of proper CSV.
    """

    rows: int
    columns: tuple[str, ...]
    size: int = 0
    step: int = STEP
    starts: tuple[int, ...] = ()
    lines: tuple[int, ...] = ()
    dialect: Dialect | None = None

    def thinned(self, step: int) -> TextIndex:
        """The index with every ``step``-th record only; raises ValueError unless that is a multiple of its own."""
        if step % self.step:
            raise ValueError(f"units of {step} rows do not end where the index, of every {self.step}th row, has a mark")
        every = step // self.step
        return TextIndex(
            self.rows, self.columns, self.size, step, self.starts[::every], self.lines[::every], self.dialect
        )

    def to_json(self) -> dict[str, Any]:
        """The form in the plan."""
        return {key: value for key, value in asdict(self).items() if key != "rows"}

    @classmethod
    def from_json(cls, rows: int, value: Mapping[str, Any]) -> TextIndex:
        """The index of ``rows`` rows that a plan holds."""
        marks = {name: tuple(value[name]) for name in ("columns", "starts", "lines")}
        dialect = None if value["dialect"] is None else Dialect(*value["dialect"])
        return cls(rows, size=value["size"], step=value["step"], dialect=dialect, **marks)


def index_jsonl(place: str, step: int = STEP) -> TextIndex:
    """The index of a JSONL file; its columns are the names in the first 1,000 records.

    Lines that are not JSON count as records, to come out with an error. Raises DataError when none of the first ones
    can be read, and as the reader does for a missing or cut file.
    """
    rows = offset = line = 0
    starts, lines, head = list[int](), list[int](), list[bytes]()
    with open_binary(place) as raw:
        for data in io.BufferedReader(raw, _BUFFER):
            if data.startswith(b"{") or not _is_blank(data if offset else data.removeprefix(_BOM)):
                if rows % step == 0:
                    starts.append(offset)
                    lines.append(line)
                if rows < _HEAD:
                    head.append(data)
                rows += 1
            offset += len(data)
            line += 1
    return TextIndex(rows, _names(head, place), offset, step, tuple(starts), tuple(lines))


def _is_blank(line: bytes) -> bool:
    """As the reader sees it, for which white space is Unicode's."""
    return not line.strip() or not line.decode("utf-8", "surrogateescape").strip()


def _names(head: list[bytes], place: str) -> tuple[str, ...]:
    text = decoded(b"".join(head), newline="\n", first=True)
    rejects = Rejects()
    names = tuple(jsonl_range(text, place, None, 0, rejects).column_names)
    if head and not names:
        raise DataError(f"{place}: none of the first {len(head):,} rows can be read; {next(iter(rejects.values()))}")
    return names


def index_csv(place: str, step: int = STEP) -> TextIndex:
    """The index of a CSV or TSV file.

    Records that are too long or too short count, to come out with an error. Raises DataError for a file without a
    header, two columns of one name, a quote that is not closed, and a missing or cut file.
    """
    dialect = find_dialect(place, lenient=True)
    if dialect is None:
        return _index_loose(place, step)
    rows = offset = 0
    starts, lines = list[int](), list[int]()

    def counted(text: Iterable[str]) -> Iterator[str]:
        nonlocal offset
        for line in text:
            bom = _BOM.decode("latin-1") if offset == 0 else ""
            offset += len(line)
            yield line.removeprefix(bom) if bom else line

    with open_binary(place) as raw:
        text = io.TextIOWrapper(io.BufferedReader(raw, _BUFFER), encoding="latin-1", newline="")
        reader = dialect.reader(counted(text))
        header: list[str] | None = []
        while header == []:
            header = next_record(reader, place)
        columns = _decoded_names(header or [], place)
        while True:
            start, line = offset, reader.line_num
            record = next_record(reader, place)
            if record is None:
                break
            if not record:
                continue
            if rows % step == 0:
                starts.append(start)
                lines.append(line)
            rows += 1
    return TextIndex(rows, columns, offset, step, tuple(starts), tuple(lines), dialect)


def _decoded_names(header: list[str], place: str) -> tuple[str, ...]:
    try:
        names = [name.encode("latin-1").decode() for name in header]
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: the header is not UTF-8 ({error.reason}); convert the file to UTF-8") from None
    return tuple(column_names(names, place))


def _index_loose(place: str, step: int) -> TextIndex:
    rows, columns = 0, tuple[str, ...]()
    for table in csv_batches(place, 8192, rejects=Rejects()):
        rows, columns = rows + table.num_rows, tuple(table.column_names)
    return TextIndex(rows, columns, step=step)
