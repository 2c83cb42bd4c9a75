"""The cells of a label column: their forms, and what is wrong with them.

A cell is one of: a flag (0, 1, true, false), an object of flags, a list of names, names parted by ``|``, or a name.
A flag is read as one only where the whole column is flags: beside "half-true", "true" is a name.
Each distinct cell is read once, so a million rows of four labels cost four parses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.errors import DataError

Cell = str | tuple[str, ...] | Mapping[str, int | None]  # flag or name, names, object of flags (None: unknown)
# Columns that the prompt/completion forms define as 0/1 or an object: another number there is a mistake, not a class.
FLAG_COLUMNS = ("completion", "expected_output")
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"([-+]?[0-9]+)\.0+")  # how pandas writes the integers of a column that has nulls
_FRACTION = re.compile(r"[-+]?[0-9]*\.[0-9]+([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class LabelColumn:
    """A label column, its distinct cells parsed. ``codes`` says for each row which of ``cells`` it holds.

    What is wrong with a cell is raised by ``refuse``, or, in a ``lenient`` column, noted in ``bad``: such a cell is
    None from then on and counts for nothing.
    """

    place: str
    name: str
    cells: list[Cell | None]
    codes: pa.Int32Array
    lenient: bool = False
    bad: dict[int, str] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)  # names outside of the label space, and a cell with each

    @property
    def good(self) -> list[tuple[int, Cell]]:
        """The cells that can be used, with their positions."""
        return [(position, cell) for position, cell in enumerate(self.cells) if cell is not None]

    def row_of(self, cell: int) -> int:
        """The first row, counted from 1, that holds this cell."""
        return int(pc.index(self.codes, pa.scalar(cell, pa.int32())).as_py()) + 1

    def refuse(self, cell: int, reason: str) -> None:
        """Note what is wrong with a cell, or raise DataError that names its file, row and column."""
        reason = f"column '{self.name}': {reason}"
        if not self.lenient:
            raise DataError(f"{self.place}: row {self.row_of(cell)}, {reason}")
        self.cells[cell] = None
        self.bad.setdefault(cell, reason)


class Refused(Exception):
    """What is wrong with one cell."""


def read_label_column(
    column: pa.ChunkedArray, place: str, name: str, separator: str = "|", *, lenient: bool = False
) -> LabelColumn:
    """Parse a ``string`` column; raises DataError that names the row for null, empty and malformed cells.

    ``lenient`` notes them in :attr:`LabelColumn.bad` instead. A dictionary column is taken as it is.
    """
    encoded = column.combine_chunks()
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode(null_encoding="encode")
    texts: list[str | None] = encoded.dictionary.to_pylist()
    parsed = LabelColumn(place, name, [None] * len(texts), encoded.indices, lenient)
    starts = [text.lstrip()[:1] if text is not None else "" for text in texts]
    several = any(
        start == "[" or (start != "{" and separator in (text or "")) for start, text in zip(starts, texts, strict=True)
    )
    for position, text in enumerate(texts):
        try:
            if text is None:
                raise Refused("no label")
            parsed.cells[position] = _parse(text, separator, several)
        except Refused as error:
            parsed.refuse(position, str(error))
    _check_numbers(parsed)
    return parsed


def _parse(text: str, separator: str, several: bool) -> Cell:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped, object_pairs_hook=tuple)  # pairs, so that no name hides another
        except (ValueError, RecursionError):
            raise Refused("broken JSON") from None
        names = [_name(item[0] if isinstance(value, tuple) else item) for item in value]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if isinstance(value, tuple):
            if twice is not None:
                raise Refused(f"label '{short(twice)}' stands twice")
            return {name: _flag(name, flag) for name, (_, flag) in zip(names, value, strict=True)}
        if twice is not None and not all(isinstance(item, str) for item in value):
            reason = f"lists {short(twice)} twice; list the labels that hold, or write flags as an object of labels"
            raise Refused(reason)
        return tuple(dict.fromkeys(names))
    if several:
        return tuple(dict.fromkeys(part.strip() for part in stripped.split(separator) if part.strip()))
    if not stripped:
        raise Refused("no label")
    return stripped


def short(name: str) -> str:
    """A name as an error tells it: its first 60 characters."""
    return name if len(name) <= 60 else f"{name[:60]}…"


def _name(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Refused("a label must be a name")


def _flag(name: str, value: Any) -> int | None:
    if value is None or value != value:  # NaN, which pandas writes for null
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise Refused(f"label '{short(name)}' must be 0 or 1")


def flag_of(cell: Cell) -> int | None:
    """0 or 1 where a cell can be read as a flag, else None."""
    return _FLAGS.get(cell.lower()) if isinstance(cell, str) else None


def _check_numbers(column: LabelColumn) -> None:
    """Bring 3.0 to 3 and refuse fractions in a column of numbers; refuse numbers where 0 or 1 is asked for."""
    values = [(position, cell) for position, cell in column.good if isinstance(cell, str)]
    if all(_NUMBER.fullmatch(cell) for _, cell in values):
        for position, number in values:
            if whole := _WHOLE.fullmatch(number):
                column.cells[position] = whole[1]
            elif _FRACTION.fullmatch(number):
                column.refuse(position, f"{short(number)} is a fraction; labels are names or whole numbers")
    if column.name.lower() in FLAG_COLUMNS:
        for position, cell in column.good:
            if isinstance(cell, str) and flag_of(cell) is None and _NUMBER.fullmatch(cell):
                column.refuse(position, f"must be 0, 1 or an object of labels, not {short(cell)}")
