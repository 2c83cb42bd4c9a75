"""Cells of a label column to label spaces and targets.

A cell is one of: a flag (0, 1, true, false), an object of flags, a list of names, names parted by ``|``, or a name.
A flag is read as one only where the whole column is flags: beside "half-true", "true" is a name.
Each distinct cell is read once, so a million rows of four labels cost four parses.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rayclf.data.label_files import Label, label_space
from rayclf.errors import DataError, LabelError
from rayclf.labels import LabelSpace, ProblemType, sparse_targets

Cell = str | tuple[str, ...] | Mapping[str, int | None]  # flag or name, names, object of flags (None: unknown)
# Columns that the prompt/completion forms define as 0/1 or an object: another number there is a mistake, not a class.
FLAG_COLUMNS = ("completion", "expected_output")
OUTSIDE = "is not in the label space"
_PLAIN = ("label", "labels", "target", "class", "y", *FLAG_COLUMNS)
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


class _Refused(Exception):
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
                raise _Refused("no label")
            parsed.cells[position] = _parse(text, separator, several)
        except _Refused as error:
            parsed.refuse(position, str(error))
    _check_numbers(parsed)
    return parsed


def _parse(text: str, separator: str, several: bool) -> Cell:
    stripped = text.strip()
    if stripped[:1] in ("{", "["):
        try:
            value = json.loads(stripped, object_pairs_hook=tuple)  # pairs, so that no name hides another
        except (ValueError, RecursionError):
            raise _Refused("broken JSON") from None
        names = [_name(item[0] if isinstance(value, tuple) else item) for item in value]
        twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
        if isinstance(value, tuple):
            if twice is not None:
                raise _Refused(f"label '{_short(twice)}' stands twice")
            return {name: _flag(name, flag) for name, (_, flag) in zip(names, value, strict=True)}
        if twice is not None and not all(isinstance(item, str) for item in value):
            reason = f"lists {_short(twice)} twice; list the labels that hold, or write flags as an object of labels"
            raise _Refused(reason)
        return tuple(dict.fromkeys(names))
    if several:
        return tuple(dict.fromkeys(part.strip() for part in stripped.split(separator) if part.strip()))
    if not stripped:
        raise _Refused("no label")
    return stripped


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:60]}…"


def _name(value: Any) -> str:
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Refused("a label must be a name")


def _flag(name: str, value: Any) -> int | None:
    if value is None or value != value:  # NaN, which pandas writes for null
        return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return int(value)
    raise _Refused(f"label '{_short(name)}' must be 0 or 1")


def _flag_of(cell: Cell) -> int | None:
    return _FLAGS.get(cell.lower()) if isinstance(cell, str) else None


def _check_numbers(column: LabelColumn) -> None:
    """Bring 3.0 to 3 and refuse fractions in a column of numbers; refuse numbers where 0 or 1 is asked for."""
    values = [(position, cell) for position, cell in column.good if isinstance(cell, str)]
    if all(_NUMBER.fullmatch(cell) for _, cell in values):
        for position, number in values:
            if whole := _WHOLE.fullmatch(number):
                column.cells[position] = whole[1]
            elif _FRACTION.fullmatch(number):
                column.refuse(position, f"{_short(number)} is a fraction; labels are names or whole numbers")
    if column.name.lower() in FLAG_COLUMNS:
        for position, cell in column.good:
            if isinstance(cell, str) and _flag_of(cell) is None and _NUMBER.fullmatch(cell):
                column.refuse(position, f"must be 0, 1 or an object of labels, not {_short(cell)}")


def infer_space(
    column: LabelColumn, problem_type: ProblemType | None = None, declared: Sequence[Label] = ()
) -> LabelSpace:
    """The label space that the column's cells span.

    Objects: multiclass where every row has exactly one 1, else multilabel; one label alone is binary. Flags: binary.
    Lists or parted names: multilabel. Names and whole numbers: multiclass. ``problem_type`` overrides the guess,
    and ``declared`` labels take the place of those that were found.
    Raises DataError for cells of mixed forms, LabelError when only one class is there.
    """
    _check_one_form(column)
    cells = [cell for _, cell in column.good]
    if not cells:
        raise LabelError(f"{column.place}: column '{column.name}': no row has any label")
    first = cells[0]
    if isinstance(first, Mapping):
        objects = [cell for cell in cells if isinstance(cell, Mapping)]
        names = list(dict.fromkeys(name for cell in objects for name in cell))
        one_each = all(sum(flag == 1 for flag in cell.values()) == 1 for cell in objects)
        guess = (
            ProblemType.BINARY if len(names) == 1 else ProblemType.MULTICLASS if one_each else ProblemType.MULTILABEL
        )
    elif isinstance(first, tuple):
        names = _sorted({name for cell in cells if isinstance(cell, tuple) for name in cell})
        guess = ProblemType.MULTILABEL
    elif all(_flag_of(cell) is not None for cell in cells):
        names = ["positive" if column.name.lower() in _PLAIN else column.name]
        guess = ProblemType.BINARY
        if problem_type is ProblemType.MULTICLASS:
            names = ["0", "1"]
    else:
        names = _sorted({str(cell) for cell in cells})
        guess = ProblemType.MULTICLASS
    _check_two_classes(column, problem_type or guess)
    if declared:
        if guess is ProblemType.BINARY and len(declared) > 1:
            guess = ProblemType.MULTICLASS
        return label_space(declared, problem_type or guess)
    return LabelSpace(tuple(names), problem_type or guess)


def _sorted(names: set[str]) -> list[str]:
    if all(name.isascii() and name.isdecimal() and len(name) < 20 for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _check_one_form(column: LabelColumn) -> None:
    """Refuse cells of another form than the first, or than most rows where the column is lenient."""

    def form(cell: Cell) -> str:
        return "object" if isinstance(cell, Mapping) else "list" if isinstance(cell, tuple) else "value"

    forms = {position: form(cell) for position, cell in column.good}
    wanted, like = next(iter(forms.values()), ""), "row 1 has"
    if column.lenient and len(set(forms.values())) > 1:
        rows = np.bincount(column.codes.to_numpy(), minlength=len(column.cells))
        held = Counter[str]()
        for position, name in forms.items():
            held[name] += int(rows[position])
        wanted, like = held.most_common(1)[0][0], "most rows have"
    for position, name in forms.items():
        if name != wanted:
            column.refuse(position, f"is a {name} where {like} a {wanted}; use one form in the whole file")
    flags = column.name.lower() in FLAG_COLUMNS and any(_flag_of(cell) is not None for _, cell in column.good)
    for position, cell in column.good:
        if flags and isinstance(cell, str) and _flag_of(cell) is None:
            column.refuse(position, f"must be 0 or 1, not '{_short(cell)}'")


def _check_two_classes(column: LabelColumn, problem_type: ProblemType) -> None:
    """Raise LabelError unless some label holds in one row and not in another."""
    ones: Counter[str] = Counter()
    zeros: set[str] = set()
    cells = [cell for _, cell in column.good]
    for cell in cells:
        if isinstance(cell, Mapping):
            ones.update(name for name, flag in cell.items() if flag == 1)
            zeros.update(name for name, flag in cell.items() if flag == 0)
        else:
            ones.update(cell if isinstance(cell, tuple) else [cell if (f := _flag_of(cell)) is None else str(f)])
    missing_is_unknown = isinstance(cells[0], Mapping) and problem_type is not ProblemType.MULTICLASS
    if not missing_is_unknown:
        zeros.update(name for name, times in ones.items() if times < len(cells))
    if zeros & ones.keys():
        return
    where = f"{column.place}: column '{column.name}'"
    if not ones:
        raise LabelError(f"{where}: no row has any label")
    if missing_is_unknown and not zeros and len({frozenset(cell) for cell in cells if isinstance(cell, Mapping)}) > 1:
        raise LabelError(f"{where}: no label is ever 0; write 0 where one does not hold, a missing one is unknown")
    held = ", ".join(map(_short, list(ones)[:5]))
    raise LabelError(f"{where}: every row has the same label ({held}); a classifier needs at least two classes")


def encode(column: LabelColumn, space: LabelSpace) -> tuple[pa.ListArray, pa.ListArray]:
    """The ``positive`` and ``unknown`` label positions of each *cell* under ``space``; see :func:`encode_rows`.

    Raises LabelError that names the labels which ``space`` lacks, DataError for a row that its problem type forbids;
    a lenient column notes such cells instead, and every refused cell is null.
    """
    _check_known(column, space)
    positive: list[list[int] | None] = [None] * len(column.cells)
    unknown: list[list[int] | None] = [None] * len(column.cells)
    for position, cell in column.good:
        try:
            positive[position], unknown[position] = _encode_cell(cell, space)
        except _Refused as error:
            column.refuse(position, str(error))
    return sparse_targets(positive), sparse_targets(unknown)


def encode_rows(column: LabelColumn, space: LabelSpace) -> tuple[pa.ListArray, pa.ListArray]:
    """The ``positive`` and ``unknown`` label positions of each row; raises as :func:`encode` does."""
    positive, unknown = encode(column, space)
    return positive.take(column.codes), unknown.take(column.codes)


def _cell_names(cell: Cell, space: LabelSpace) -> list[str]:
    """The labels that a cell names, or those that hold where it is a flag."""
    if not isinstance(cell, str):
        return list(cell)
    flag = _flag_of(cell)
    if cell in space.lookup:
        return [cell]
    if len(space) == 1 and (flag is not None or cell == space.negative):
        return list(space.names) if flag else []
    return [cell if flag is None else str(flag)]


def _check_known(column: LabelColumn, space: LabelSpace) -> None:
    for position, cell in column.good:
        lost = [name for name in _cell_names(cell, space) if name not in space.lookup]
        column.missing.update(dict.fromkeys(lost, position))
        if lost and column.lenient:
            column.refuse(position, f"label '{_short(lost[0])}' {OUTSIDE}")
    if column.missing and not column.lenient:
        raise missing_labels(column)


def missing_labels(column: LabelColumn) -> LabelError:
    """The error that names the labels which the label space lacks."""
    names = ", ".join(map(_short, list(column.missing)[:10])) + (", …" if len(column.missing) > 10 else "")
    return LabelError(
        f"{column.place}: column '{column.name}': {len(column.missing)} label(s) that training does not have: {names}; "
        "add training rows or a labels file with them, or remove their rows"
    )


def _encode_cell(cell: Cell, space: LabelSpace) -> tuple[list[int], list[int]]:
    unknown: list[int] = []
    if isinstance(cell, Mapping):
        flags = {space.lookup[name]: flag for name, flag in cell.items()}
        positive = sorted(position for position, flag in flags.items() if flag == 1)
        if space.problem_type is not ProblemType.MULTICLASS:
            unknown = [position for position in range(len(space)) if flags.get(position) is None]
    else:
        positive = sorted({space.lookup[name] for name in _cell_names(cell, space)})
    if space.problem_type is ProblemType.MULTICLASS and len(positive) != 1:
        raise _Refused(f"has {len(positive)} labels; a multiclass row has exactly one")
    return positive, unknown
