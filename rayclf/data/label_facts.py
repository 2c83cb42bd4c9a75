"""What labels an input has: which problem type they make and why, how often each holds, how uneven they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayclf.data.label_cells import Cell, LabelColumn
from rayclf.data.label_files import Label
from rayclf.data.survey import Survey
from rayclf.data.targets import infer_space
from rayclf.errors import LabelError
from rayclf.labels import LabelSpace, ProblemType

RARE = 10  # rows of a label below which neither learning nor measuring it comes to much
_NOTHING = "(no label)"  # stands where a label space must have a label and the input has none


@dataclass(frozen=True)
class LabelCount:
    """In how many rows a label holds, and of how many it is unknown whether it does."""

    name: str
    rows: int
    unknown: int


@dataclass(frozen=True)
class Imbalance:
    """``ratio`` is the most frequent label's rows over those of the least frequent one that any row has, the two sides
    of a binary label counted as two; ``largest_share`` of the rows hold the most frequent."""

    ratio: float
    largest_share: float
    rare: int
    without_rows: int


@dataclass(frozen=True)
class Labels:
    """The labels, most frequent first. ``negative`` rows are known to hold no label of a binary task, else None;
    ``per_row[i]`` rows hold ``i`` labels."""

    size: int
    declared: bool
    counts: tuple[LabelCount, ...]
    negative: int | None
    imbalance: Imbalance
    unknown_targets: int
    mean_per_row: float
    max_per_row: int
    per_row: tuple[int, ...]


class SpaceGuess:
    """Takes the place of :func:`infer_space` in a survey: says why, and goes on where there is no label space.

    Such input gets a multilabel one, in which all that it has can be counted.
    """

    def __init__(self) -> None:
        self.problem_type: str | None = None
        self.why = ""
        self.names: tuple[str, ...] = ()
        self.single_value = False

    def __call__(self, column: LabelColumn, problem_type: ProblemType | None, declared: Sequence[Label]) -> LabelSpace:
        """The label space as :func:`infer_space` finds it, else one of all names."""
        try:
            space = infer_space(column, problem_type, declared)
        except LabelError as error:
            self.why = str(error)
            names = dict.fromkeys(name for _, cell in column.good for name in _names(cell))
            self.names = tuple(names)
            self.single_value = len(column.good) == 1
            return LabelSpace(self.names or (_NOTHING,), ProblemType.MULTILABEL)
        self.problem_type, self.names = str(space.problem_type), space.names
        self.why = _why([cell for _, cell in column.good], space)
        if problem_type is not None:
            self.why += "; the problem type is set by labels.problem_type"
        if declared:
            self.why += f"; {len(declared)} labels are declared"
        return space


def _names(cell: Cell) -> Collection[str]:
    return [cell] if isinstance(cell, str) else cell


def _why(cells: Sequence[Cell], space: LabelSpace) -> str:
    first = cells[0]
    if isinstance(first, Mapping):
        names = len({name for cell in cells for name in _names(cell)})
        if names == 1:
            return "objects: every row says of one label whether it holds"
        if all(sum(flag == 1 for flag in cell.values()) == 1 for cell in cells if isinstance(cell, Mapping)):
            return "objects: every row has exactly one 1"
        return "objects: some rows have no 1, or several"
    if isinstance(first, tuple):
        return "lists of labels, or names parted by a separator"
    if {str(cell).lower() for cell in cells} <= {"0", "1", "true", "false"}:
        return "every row is 0 or 1"
    kind = "whole numbers" if all(str(cell).lstrip("+-").isdecimal() for cell in cells) else "names"
    return f"every row has one of {len({str(cell) for cell in cells})} {kind}"


def count_labels(found: Survey, guess: SpaceGuess, declared: Sequence[Label]) -> Labels:
    """The labels of the rows that can be used."""
    usable, space = found.usable, found.space
    positive, unknown = found.label_counts(usable)
    rows = int(usable.sum())
    cells = np.bincount(found.codes[found.kept], minlength=len(found.positive))
    sizes = np.diff(found.positive.offsets.to_numpy())
    per_row = np.bincount(sizes, weights=cells).astype(np.int64)
    per_row = per_row[: int(np.max(np.flatnonzero(per_row), initial=0)) + 1]
    negative = None
    sides = positive
    if space.problem_type is ProblemType.BINARY:
        negative = rows - int(positive[0]) - int(unknown[0])
        sides = np.append(positive, negative)
    held = sides[sides > 0]
    order = np.argsort(-positive, kind="stable") if guess.names else np.empty(0, np.int64)
    return Labels(
        size=len(guess.names),
        declared=bool(declared),
        counts=tuple(LabelCount(space.names[i], int(positive[i]), int(unknown[i])) for i in order.tolist()),
        negative=negative,
        imbalance=Imbalance(
            ratio=float(held.max() / held.min()) if len(held) else 0.0,
            largest_share=float(sides.max() / rows) if rows else 0.0,
            rare=int(np.count_nonzero((sides > 0) & (sides < RARE))),
            without_rows=int(np.count_nonzero(positive == 0)) if guess.names else 0,
        ),
        unknown_targets=int(unknown.sum()),
        mean_per_row=float(positive.sum() / rows) if rows else 0.0,
        max_per_row=len(per_row) - 1,
        per_row=tuple(per_row.tolist()),
    )
