"""The cells of a label column to label spaces and targets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from rayclf.data.label_cells import FLAG_COLUMNS, Cell, LabelColumn, Refused, flag_of, short
from rayclf.data.label_files import Label, label_space
from rayclf.errors import LabelError
from rayclf.labels import LabelSpace, ProblemType, sparse_targets

OUTSIDE = "is not in the label space"
_PLAIN = ("label", "labels", "target", "class", "y", *FLAG_COLUMNS)


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
    elif all(flag_of(cell) is not None for cell in cells):
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
        return "an object" if isinstance(cell, Mapping) else "a list" if isinstance(cell, tuple) else "a value"

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
            column.refuse(position, f"is {name} where {like} {wanted}; use one form in the whole file")
    flags = column.name.lower() in FLAG_COLUMNS and any(flag_of(cell) is not None for _, cell in column.good)
    for position, cell in column.good:
        if flags and isinstance(cell, str) and flag_of(cell) is None:
            column.refuse(position, f"must be 0 or 1, not '{short(cell)}'")


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
            ones.update(cell if isinstance(cell, tuple) else [cell if (f := flag_of(cell)) is None else str(f)])
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
    held = ", ".join(map(short, list(ones)[:5]))
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
        except Refused as error:
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
    flag = flag_of(cell)
    if cell in space.lookup:
        return [cell]
    if len(space) == 1 and (flag is not None or cell == space.negative):
        return list(space.names) if flag else []
    return [cell if flag is None else str(flag)]


def _check_known(column: LabelColumn, space: LabelSpace) -> None:
    for position, cell in column.good:
        lost = [name for name in _cell_names(cell, space) if name not in space.lookup]
        for name in lost:
            column.missing.setdefault(name, position)
        if lost and column.lenient:
            column.refuse(position, f"label '{short(lost[0])}' {OUTSIDE}")
    if column.missing and not column.lenient:
        row = min(map(column.row_of, set(column.missing.values())))
        raise missing_labels(column, f"{column.place}: row {row}")


def missing_labels(column: LabelColumn, where: str) -> LabelError:
    """The error that names the labels which the label space lacks, and ``where`` the first row with one is."""
    names = ", ".join(map(short, list(column.missing)[:10])) + (", …" if len(column.missing) > 10 else "")
    what = "a label" if len(column.missing) == 1 else f"the first of {len(column.missing)} labels"
    return LabelError(
        f"{where}, column '{column.name}': {what} that training does not have: {names}; "
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
        raise Refused(f"has {len(positive)} labels; a multiclass row has exactly one")
    return positive, unknown
