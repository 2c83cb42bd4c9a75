"""What people trip over: signs in the data that something is not as it was meant."""

from __future__ import annotations

from collections.abc import Sequence

from rayclf.data.formats import format_of
from rayclf.data.label_facts import Labels
from rayclf.data.profile import Column
from rayclf.data.survey import Survey

_LONG_NAME = 8  # words; a column name is rarely a sentence
_SEPARATORS = (";", "|", ",", "/")


def find_hints(found: Survey, columns: Sequence[Column], labels: Labels, repeated_ids: int) -> tuple[str, ...]:
    """One sentence each, what to do about it included; column names are told, texts are not."""
    hints = []
    if any(column.role == "label" and column.distinct == 1 for column in columns):
        hints.append("the label column has one value in the rows looked at; check --label")
    if repeated_ids:
        hints.append(f"{repeated_ids} rows have an id that another row had before; make column 'id' unique")
    if (sign := _headless(found, columns, labels)) is not None:
        hints.append(f"the header line may be missing: {sign}; add a first line with the names of the columns")
    if not labels.declared and (joined := joined_labels([count.name for count in labels.counts])) is not None:
        hints.append(joined)
    return tuple(hints)


def joined_labels(names: Sequence[str]) -> str | None:
    """A hint if something seems to join labels within a cell: parted by it, the names are made of fewer."""
    for mark in _SEPARATORS:
        if len({part.strip() for name in names for part in name.split(mark)}) < len(names):
            return f"labels look joined by '{mark}'; if a cell may hold several, pass --separator '{mark}'"
    return None


def _headless(found: Survey, columns: Sequence[Column], labels: Labels) -> str | None:
    """Why the names of a CSV file's columns look like its first row."""
    if format_of(found.sources[0].path) != "csv":
        return None
    # The one label of a column of flags has the column's name.
    values = {count.name for count in labels.counts} if labels.negative is None else set()
    for number, column in enumerate(columns, start=1):
        if column.role == "label" and column.name in values:
            return f"the name of column {number} is also one of the labels"
        if column.name.strip().lstrip("+-").replace(".", "", 1).isdecimal():
            return f"the name of column {number} is a number"
        if len(column.name.split()) >= _LONG_NAME:
            return f"the name of column {number} is a sentence"
    return None
