"""Which rows each optimiser step takes, and which of them each worker: worked out from the seed, not from arrival.

An epoch is one sequence over all rows: windows of 32,768 rows in a random order, the rows mixed inside each. Step ``s``
takes the next ``batch_size`` of it, and the workers share those. So the number of workers changes nothing about a step,
and an interrupted epoch goes on at any step, with any number of workers, at the next row that was not yet seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
WINDOW = 32_768  # rows of 100 tokens: 13 MB


@dataclass(frozen=True)
class Share:
    """The rows of one window that are a worker's: their numbers, in the order of training, and the step of each."""

    window: tuple[int, int]  # the first row of the window, and the one after its last
    rows: Rows
    steps: Rows


@dataclass(frozen=True)
class EpochOrder:
    """One epoch over ``rows`` rows in batches of ``batch_size``; unshuffled it keeps the order of the data set."""

    rows: int
    batch_size: int
    seed: int
    epoch: int
    shuffle: bool = True
    window: int = WINDOW

    @property
    def steps(self) -> int:
        """Steps of the epoch; the last may have fewer rows."""
        return -(-self.rows // self.batch_size)

    def windows(self) -> Iterator[tuple[tuple[int, int], Rows]]:
        """Each window and its rows in the order of training."""
        count = -(-self.rows // self.window)
        order = np.random.default_rng([self.seed, self.epoch]).permutation(count) if self.shuffle else range(count)
        for number in map(int, order):
            start, stop = number * self.window, min((number + 1) * self.window, self.rows)
            rows = np.arange(start, stop, dtype=np.int64)
            if self.shuffle:
                np.random.default_rng([self.seed, self.epoch, number]).shuffle(rows)
            yield (start, stop), rows

    def shares(self, rank: int, world: int, start: int = 0) -> Iterator[Share]:
        """What worker ``rank`` of ``world`` takes of each window, from step ``start`` of the epoch on.

        Of a batch of b rows, worker r takes those from ``b·r // world`` to ``b·(r+1) // world``.
        """
        before = 0
        for window, rows in self.windows():
            position = np.arange(before, before + len(rows))
            before += len(rows)
            step, offset = position // self.batch_size, position % self.batch_size
            batch = np.minimum(self.batch_size, self.rows - step * self.batch_size)
            owner = ((offset + 1) * world - 1) // batch
            mine = (owner == rank) & (step >= start)
            if mine.any():
                yield Share(window, rows[mine], step[mine])
