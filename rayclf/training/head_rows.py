"""Which rows the head is fitted to before the first step: those of the first steps, fewer where labels are many."""

from __future__ import annotations

from itertools import chain, islice

import numpy as np

from rayclf.config import TrainConfig
from rayclf.data.order import EpochOrder, Rows

_USUAL = 5_120
_MOST_TARGETS = 2**26  # rows times labels


def head_rows(config: TrainConfig, tuning: str) -> int:
    """``train.head_rows``; when unset 5,120, or 0 where the head is all that is trained."""
    usual = _USUAL if tuning != "head" else 0
    return usual if config.head_rows is None else config.head_rows


def rows_to_read(most: int, labels: int) -> int:
    """``most`` rows, or those that are few enough for so many labels."""
    return min(most, _MOST_TARGETS // labels)


def steps_to_read(order: EpochOrder, most: int, labels: int) -> int:
    """How many steps of the epoch hold that many rows, one step at least."""
    return min(order.steps, max(1, rows_to_read(most, labels) // order.batch_size))


def first_rows(order: EpochOrder, steps: int) -> Rows:
    """The numbers of the rows of the first steps."""
    rows = chain.from_iterable(numbers.tolist() for _, numbers in order.windows())
    return np.fromiter(islice(rows, steps * order.batch_size), np.int64)
