"""Cells of a label column to label spaces and targets.

A cell is one of: a flag (0, 1, true, false), an object of flags, a list of names, names parted by ``|``, or a name.
Each distinct cell is read once, so a million rows of four labels cost four parses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.errors import DataError, LabelError
from rayclf.labels import LabelSpace, ProblemType, sparse_targets

Cell = int | str | tuple[str, ...] | Mapping[str, int | None]  # flag, name, names, object of flags (None: unknown)
# Columns that the prompt/completion forms define as 0/1 or an object: another number there is a mistake, not a class.
FLAG_COLUMNS = ("completion", "expected_output")
_PLAIN = ("label", "labels", "target", "class", "y", *FLAG_COLUMNS)
_FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}


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
    several = any(separator in text for text in texts if text[:1] not in "{[") or any(
        text.lstrip()[:1] == "[" for text in texts
    )
    parsed.cells.extend(_parse(parsed, position, text, separator, several) for position, text in enumerate(texts))
    _check_numbers(parsed)
    return parsed


def _parse(column: LabelColumn, position: int, text: str, separator: str, several: bool) -> Cell:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped)
        except ValueError:
            raise column.fail(position, "broken JSON") from None
        if isinstance(value, dict):
            return {_name(column, position, key): _flag(column, position, key, flag) for key, flag in value.items()}
        return tuple(dict.fromkeys(_name(column, position, item) for item in value))
    if several:
        return tuple(dict.fromkeys(part.strip() for part in stripped.split(separator) if part.strip()))
    if not stripped:
        raise column.fail(position, "no label")
    flag = _FLAGS.get(stripped.lower())
    return stripped if flag is None else flag


def _name(column: LabelColumn, position: int, value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise column.fail(position, "a label must be a name")


def _flag(column: LabelColumn, position: int, key: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise column.fail(position, f"label '{key}' must be 0 or 1")


def _check_numbers(column: LabelColumn) -> None:
    """Refuse numbers where 0 or 1 is asked for, and fractions, which are not labels; bring 3.0 to 3."""
    for position, cell in enumerate(column.cells):
        if not isinstance(cell, str) or (number := _number(cell)) is None:
            continue
        if column.name.lower() in FLAG_COLUMNS:
            raise column.fail(position, f"must be 0, 1 or an object of labels, not {cell}")
        if number != int(number):
            raise column.fail(position, f"{cell} is a fraction; labels are names or whole numbers")
        column.cells[position] = str(int(number))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e15 and "_" not in text else None  # a long digit string is an id, nan a word


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
    elif all(isinstance(cell, int) for cell in column.cells) and problem_type is not ProblemType.MULTICLASS:
        names = ["positive" if column.name.lower() in _PLAIN else column.name]
        guess = ProblemType.BINARY
    else:
        names = _sorted({str(cell) for cell in column.cells})
        guess = ProblemType.MULTICLASS
    _check_two_classes(column, names)
    return LabelSpace(tuple(names), problem_type or guess)


def _sorted(names: set[str]) -> list[str]:
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)


def _check_one_form(column: LabelColumn) -> None:
    def form(cell: Cell) -> str:
        return "object" if isinstance(cell, Mapping) else "list" if isinstance(cell, tuple) else "value"

    wanted = form(column.cells[0])
    for position, cell in enumerate(column.cells):
        if form(cell) != wanted:
            raise column.fail(position, f"is a {form(cell)} where row 1 has a {wanted}; use one form in the whole file")
    flags = column.name.lower() in FLAG_COLUMNS and any(isinstance(cell, int) for cell in column.cells)
    for position, cell in enumerate(column.cells):
        if flags and isinstance(cell, str):
            raise column.fail(position, f"must be 0 or 1, not '{cell}'")


def _check_two_classes(column: LabelColumn, names: Sequence[str]) -> None:
    where = f"{column.place}: column '{column.name}'"
    if not names:
        raise LabelError(f"{where}: no row has any label")
    forms = {str(sorted(cell.items(), key=str) if isinstance(cell, Mapping) else cell) for cell in column.cells}
    if len(forms) == 1:
        held = ", ".join(names[:5])
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
    if isinstance(cell, Mapping | tuple):
        return list(cell)
    binary = space.problem_type is ProblemType.BINARY
    return [] if binary and (isinstance(cell, int) or cell == space.negative) else [str(cell)]


def _check_known(column: LabelColumn, space: LabelSpace) -> None:
    missing = dict.fromkeys(
        name for cell in column.cells for name in _cell_names(cell, space) if name not in space.index
    )
    if missing:
        names = ", ".join(list(missing)[:10]) + (", …" if len(missing) > 10 else "")
        raise LabelError(
            f"{column.place}: column '{column.name}': {len(missing)} label(s) that training does not have: {names}; "
            "add training rows for them or remove their rows"
        )


def _encode_cell(column: LabelColumn, position: int, cell: Cell, space: LabelSpace) -> tuple[list[int], list[int]]:
    unknown: list[int] = []
    if isinstance(cell, Mapping):
        positive = [space.index[name] for name, flag in cell.items() if flag == 1]
        if space.problem_type is not ProblemType.MULTICLASS:
            unknown = [i for i, name in enumerate(space.names) if cell.get(name) is None]
    elif isinstance(cell, int) and space.problem_type is ProblemType.BINARY:
        positive = [0] * cell
    else:
        positive = [space.index[name] for name in _cell_names(cell, space)]
    if space.problem_type is ProblemType.MULTICLASS and len(positive) != 1:
        raise column.fail(position, f"has {len(positive)} labels; a multiclass row has exactly one")
    return positive, unknown
