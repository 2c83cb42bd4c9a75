"""Cells of a label column to label spaces and targets.

A cell is one of: a flag (0, 1, true, false), an object of flags, a list of names, names parted by ``|``, or a name.
A flag is read as one only where the whole column is flags: beside "half-true", "true" is a name.
Each distinct cell is read once, so a million rows of four labels cost four parses.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.errors import DataError, LabelError
from rayclf.labels import LabelSpace, ProblemType, sparse_targets

Cell = str | tuple[str, ...] | Mapping[str, int | None]  # flag or name, names, object of flags (None: unknown)
# Columns that the prompt/completion forms define as 0/1 or an object: another number there is a mistake, not a class.
FLAG_COLUMNS = ("completion", "expected_output")
_PLAIN = ("label", "labels", "target", "class", "y", *FLAG_COLUMNS)
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1}
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"([-+]?[0-9]+)\.0+")  # how pandas writes the integers of a column that has nulls
_FRACTION = re.compile(r"[-+]?[0-9]*\.[0-9]+([eE][-+]?[0-9]+)?")


@dataclass(frozen=True)
class LabelColumn:
    """A label column, its distinct cells parsed. ``codes`` says for each row which of ``cells`` it holds."""

    place: str
    name: str
    cells: list[Cell]
    codes: pa.Int32Array

    def row_of(self, cell: int) -> int:
        """The first row, counted from 1, that holds this cell."""
        return int(pc.index(self.codes, pa.scalar(cell, pa.int32())).as_py()) + 1

    def fail(self, cell: int, reason: str) -> DataError:
        """An error that names the file, row and column of a cell."""
        return DataError(f"{self.place}: row {self.row_of(cell)}, column '{self.name}': {reason}")


def read_label_column(column: pa.ChunkedArray, place: str, name: str, separator: str = "|") -> LabelColumn:
    """Parse a ``string`` column; raises DataError that names the row for null, empty and malformed cells."""
    encoded = column.combine_chunks().dictionary_encode()
    parsed = LabelColumn(place, name, [], encoded.indices)
    if encoded.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise DataError(f"{place}: row {row}, column '{name}': no label")
    texts = encoded.dictionary.to_pylist()
    several = any(text.lstrip()[:1] == "[" or (separator in text and text.lstrip()[:1] != "{") for text in texts)
    parsed.cells.extend(_parse(parsed, position, text, separator, several) for position, text in enumerate(texts))
    _check_numbers(parsed)
    return parsed


def _parse(column: LabelColumn, position: int, text: str, separator: str, several: bool) -> Cell:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped, object_pairs_hook=tuple)  # pairs, so that no name hides another
        except (ValueError, RecursionError):
            raise column.fail(position, "broken JSON") from None
        names = [_name(column, position, item[0] if isinstance(value, tuple) else item) for item in value]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if isinstance(value, tuple):
            if twice is not None:
                raise column.fail(position, f"label '{_short(twice)}' stands twice")
            return {name: _flag(column, position, name, flag) for name, (_, flag) in zip(names, value, strict=True)}
        if twice is not None and not all(isinstance(item, str) for item in value):
            reason = f"lists {_short(twice)} twice; list the labels that hold, or write flags as an object of labels"
            raise column.fail(position, reason)
        return tuple(dict.fromkeys(names))
    if several:
        return tuple(dict.fromkeys(part.strip() for part in stripped.split(separator) if part.strip()))
    if not stripped:
        raise column.fail(position, "no label")
    return stripped


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}…"


def _name(column: LabelColumn, position: int, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise column.fail(position, "a label must be a name")


def _flag(column: LabelColumn, position: int, name: str, value: Any) -> int | None:
    if value is None or value != value:  # NaN, which pandas writes for null
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise column.fail(position, f"label '{_short(name)}' must be 0 or 1")


def _flag_of(cell: Cell) -> int | None:
    return _FLAGS.get(cell.lower()) if isinstance(cell, str) else None


def _check_numbers(column: LabelColumn) -> None:
    """Bring 3.0 to 3 and refuse fractions in a column of numbers; refuse numbers where 0 or 1 is asked for."""
    values = [cell for cell in column.cells if isinstance(cell, str)]
    if all(_NUMBER.fullmatch(cell) for cell in values):
        for position, cell in enumerate(column.cells):
            if isinstance(cell, str) and (whole := _WHOLE.fullmatch(cell)):
                column.cells[position] = whole[1]
            elif isinstance(cell, str) and _FRACTION.fullmatch(cell):
                raise column.fail(position, f"{_short(cell)} is a fraction; labels are names or whole numbers")
    if column.name.lower() in FLAG_COLUMNS:
        for position, cell in enumerate(column.cells):
            if isinstance(cell, str) and _flag_of(cell) is None and _NUMBER.fullmatch(cell):
                raise column.fail(position, f"must be 0, 1 or an object of labels, not {_short(cell)}")


def infer_space(column: LabelColumn, problem_type: ProblemType | None = None) -> LabelSpace:
    """The label space that the column's cells span.

    Objects: multiclass where every row has exactly one 1, else multilabel; one label alone is binary. Flags: binary.
    Lists or parted names: multilabel. Names and whole numbers: multiclass. ``problem_type`` overrides the guess.
    Raises DataError for cells of mixed forms, LabelError when only one class is there.
    """
    _check_one_form(column)
    first = column.cells[0]
    if isinstance(first, Mapping):
        objects = [cell for cell in column.cells if isinstance(cell, Mapping)]
        names = list(dict.fromkeys(name for cell in objects for name in cell))
        one_each = all(sum(flag == 1 for flag in cell.values()) == 1 for cell in objects)
        guess = (
            ProblemType.BINARY if len(names) == 1 else ProblemType.MULTICLASS if one_each else ProblemType.MULTILABEL
        )
    elif isinstance(first, tuple):
        names = _sorted({name for cell in column.cells if isinstance(cell, tuple) for name in cell})
        guess = ProblemType.MULTILABEL
    elif all(_flag_of(cell) is not None for cell in column.cells):
        names = ["positive" if column.name.lower() in _PLAIN else column.name]
        guess = ProblemType.BINARY
        if problem_type is ProblemType.MULTICLASS:
            names = ["0", "1"]
    else:
        names = _sorted({str(cell) for cell in column.cells})
        guess = ProblemType.MULTICLASS
    _check_two_classes(column, problem_type or guess)
    return LabelSpace(tuple(names), problem_type or guess)


def _sorted(names: set[str]) -> list[str]:
    if all(name.isascii() and name.isdecimal() and len(name) < 20 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _check_one_form(column: LabelColumn) -> None:
    def form(cell: Cell) -> str:
        return "object" if isinstance(cell, Mapping) else "list" if isinstance(cell, tuple) else "value"

    wanted = form(column.cells[0])
    for position, cell in enumerate(column.cells):
        if form(cell) != wanted:
            raise column.fail(position, f"is a {form(cell)} where row 1 has a {wanted}; use one form in the whole file")
    flags = column.name.lower() in FLAG_COLUMNS and any(_flag_of(cell) is not None for cell in column.cells)
    for position, cell in enumerate(column.cells):
        if flags and isinstance(cell, str) and _flag_of(cell) is None:
            raise column.fail(position, f"must be 0 or 1, not '{_short(cell)}'")


def _check_two_classes(column: LabelColumn, problem_type: ProblemType) -> None:
    """Raise LabelError unless some label holds in one row and not in another."""
    ones: Counter[str] = Counter()
    zeros: set[str] = set()
    for cell in column.cells:
        if isinstance(cell, Mapping):
            ones.update(name for name, flag in cell.items() if flag == 1)
            zeros.update(name for name, flag in cell.items() if flag == 0)
        else:
            ones.update(cell if isinstance(cell, tuple) else [cell if (f := _flag_of(cell)) is None else str(f)])
    missing_is_unknown = isinstance(column.cells[0], Mapping) and problem_type is not ProblemType.MULTICLASS
    if not missing_is_unknown:
        zeros.update(name for name, times in ones.items() if times < len(column.cells))
    if zeros & ones.keys():
        return
    where = f"{column.place}: column '{column.name}'"
    if not ones:
        raise LabelError(f"{where}: no row has any label")
    if missing_is_unknown and not zeros and len({frozenset(cell) for cell in column.cells}) > 1:
        raise LabelError(f"{where}: no label is ever 0; write 0 where one does not hold, a missing one is unknown")
    held = ", ".join(map(_short, list(ones)[:5]))
    raise LabelError(f"{where}: every row has the same label ({held}); a classifier needs at least two classes")


def encode(column: LabelColumn, space: LabelSpace) -> tuple[pa.ListArray, pa.ListArray]:
    """The rows' ``positive`` and ``unknown`` label positions under ``space``.

    Raises LabelError that names the labels which ``space`` lacks, DataError for a row that its problem type forbids.
    """
    _check_known(column, space)
    pairs = [_encode_cell(column, position, cell, space) for position, cell in enumerate(column.cells)]
    return (
        sparse_targets([positive for positive, _ in pairs]).take(column.codes),
        sparse_targets([unknown for _, unknown in pairs]).take(column.codes),
    )


def _cell_names(cell: Cell, space: LabelSpace) -> list[str]:
    """The labels that a cell names, or those that hold where it is a flag."""
    if not isinstance(cell, str):
        return list(cell)
    flag = _flag_of(cell)
    if cell in space.index:
        return [cell]
    if len(space) == 1 and (flag is not None or cell == space.negative):
        return list(space.names) if flag else []
    return [cell if flag is None else str(flag)]


def _check_known(column: LabelColumn, space: LabelSpace) -> None:
    missing = dict.fromkeys(
        name for cell in column.cells for name in _cell_names(cell, space) if name not in space.index
    )
    if missing:
        names = ", ".join(map(_short, list(missing)[:10])) + (", …" if len(missing) > 10 else "")
        raise LabelError(
            f"{column.place}: column '{column.name}': {len(missing)} label(s) that training does not have: {names}; "
            "add training rows for them or remove their rows"
        )


def _encode_cell(column: LabelColumn, position: int, cell: Cell, space: LabelSpace) -> tuple[list[int], list[int]]:
    unknown: list[int] = []
    if isinstance(cell, Mapping):
        positive = sorted(space.index[name] for name, flag in cell.items() if flag == 1)
        if space.problem_type is not ProblemType.MULTICLASS:
            unknown = [i for i, name in enumerate(space.names) if cell.get(name) is None]
    else:
        positive = sorted(space.index[name] for name in _cell_names(cell, space))
    if space.problem_type is ProblemType.MULTICLASS and len(positive) != 1:
        raise column.fail(position, f"has {len(positive)} labels; a multiclass row has exactly one")
    return positive, unknown
