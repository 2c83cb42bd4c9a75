"""Texts that stand several times: twice in one input, with labels that contradict each other, or in the test part too.

Texts are compared by their 64-bit hashes, so nothing is held of them: among a billion rows one false pair is to be
expected once in 37 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rayclf.data.survey import Survey
from rayclf.storage_errors import shown

_EXAMPLES = 5


@dataclass(frozen=True)
class Place:
    """Where a row stands: its file, and its number there, counted from 1."""

    file: str
    row: int


@dataclass(frozen=True)
class Duplicates:
    """``rows`` have a text seen before; ``conflicting_texts`` stand with several label sets, in ``conflicting_rows``.

    An example of a conflict is the first row of each of a text's label sets.
    """

    rows: int
    conflicting_texts: int
    conflicting_rows: int
    examples: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True)
class SharedTexts:
    """Texts that are in two inputs, and how many rows of the second hold one."""

    texts: int
    rows: int


def find_duplicates(found: Survey) -> Duplicates:
    """The duplicates among the rows that can be used."""
    rows = found.kept
    identity = found.identity[rows]
    order = np.argsort(identity, kind="stable")
    ordered = identity[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]
    group = np.cumsum(first) - 1
    repeated = np.bincount(group)[group] > 1 if len(group) else np.zeros(0, bool)
    group, numbers = group[repeated], rows[order[repeated]]
    sets = label_sets(found, found.codes[numbers])
    # Sorted by text and label set, in the order of the input within: the first of each pair stands for it.
    by_set = np.lexsort((numbers, sets, group))
    group, numbers, sets = group[by_set], numbers[by_set], sets[by_set]
    new_group = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    new_set = new_group | np.concatenate([[True], sets[1:] != sets[:-1]])[: len(group)]
    text = np.cumsum(new_group) - 1
    conflicting = np.bincount(text[new_set]) > 1 if len(text) else np.zeros(0, bool)
    heads = [np.sort(numbers[new_set & (text == one)]) for one in _first_texts(conflicting, text, numbers)]
    return Duplicates(
        rows=int(len(first) - np.count_nonzero(first)),
        conflicting_texts=int(np.count_nonzero(conflicting)),
        conflicting_rows=int(np.count_nonzero(conflicting[text])) if len(text) else 0,
        examples=tuple(tuple(place_of(found, int(row)) for row in rows) for rows in heads),
    )


def _first_texts(
    conflicting: npt.NDArray[np.bool_], text: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The conflicting texts that come first in the input."""
    if not conflicting.any():
        return np.empty(0, np.int64)
    first = np.full(len(conflicting), np.iinfo(np.int64).max)
    np.minimum.at(first, text, numbers)
    first[~conflicting] = np.iinfo(np.int64).max
    return np.argsort(first)[: min(_EXAMPLES, int(np.count_nonzero(conflicting)))]


def label_sets(found: Survey, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """A number for the targets that each cell of ``codes`` says: ``a|b`` and ``b|a`` are different cells but one."""
    cells, inverse = np.unique(codes, return_inverse=True)
    known: dict[tuple[bytes, bytes], int] = {}
    numbers = np.empty(len(cells), np.int64)
    for position, cell in enumerate(cells.tolist()):
        key = (_bytes(found.positive[cell].values), _bytes(found.unknown[cell].values))
        numbers[position] = known.setdefault(key, len(known))
    return numbers[inverse]


def _bytes(values: object) -> bytes:
    return b"" if values is None else np.asarray(values, np.int32).tobytes()


def find_shared(found: Survey, test: Survey) -> SharedTexts:
    """The texts of the usable rows of ``test`` that usable rows of ``found`` hold too."""
    identity = test.identity[test.kept]
    held = np.isin(identity, found.identity[found.kept])
    return SharedTexts(texts=len(np.unique(identity[held])), rows=int(np.count_nonzero(held)))


def place_of(found: Survey, row: int) -> Place:
    """Where the row of this number stands."""
    source, number = found.where(row)
    return Place(shown(source.path), number)
