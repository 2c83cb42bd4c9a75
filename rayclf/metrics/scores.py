"""The probabilities themselves, as long as they are few: areas are exact then, as scikit-learn's are.

A histogram (:mod:`rayclf.metrics.histogram`) takes what is nearly equal for ties. Among thousands of rows of a label
that is nothing; where nine hold, one tie moves the mean precision by hundredths.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats
from rayclf.metrics.histogram import Histogram

_MOST = 2**20  # probabilities kept, all workers together: 6 MiB
Bools = npt.NDArray[np.bool_]


class Scores:
    """Batches of probabilities as they come, none any more once they are too many."""

    def __init__(self) -> None:
        self.cells = 0
        self._batches: list[tuple[Floats, Bools, Bools]] = []

    def update(self, probabilities: Floats, truth: Bools, known: Bools) -> None:
        """Keep a batch ``[n, K]``: which labels hold, and of which it is known."""
        if len(truth):
            self._keep([(probabilities.astype(np.float32), truth, known)])

    def merge(self, other: Scores) -> None:
        """Add those of another worker."""
        self.cells += other.cells - sum(one.size for one, _, _ in other._batches)
        self._keep(other._batches)

    def _keep(self, batches: list[tuple[Floats, Bools, Bools]]) -> None:
        self.cells += sum(one.size for one, _, _ in batches)
        self._batches = [*self._batches, *batches] if self.cells <= _MOST else []

    def ranked(self) -> Histogram | None:
        """A histogram ``[2, K, n]`` in which two rows share a bin if their probabilities are equal, and only then; None
        without rows, and where they were too many to keep."""
        if not self._batches:
            return None
        probabilities, truth, known = (np.concatenate(side) for side in zip(*self._batches, strict=True))
        order = np.argsort(probabilities, axis=0)
        ordered, truth, known = (np.take_along_axis(one, order, axis=0) for one in (probabilities, truth, known))
        bins = np.zeros(ordered.shape, np.int64)
        np.cumsum(ordered[1:] > ordered[:-1], axis=0, out=bins[1:])
        result = np.zeros((2, ordered.shape[1], len(ordered)), np.int64)
        labels = np.broadcast_to(np.arange(ordered.shape[1]), ordered.shape)
        np.add.at(result, (truth[known].astype(np.int64), labels[known], bins[known]), 1)
        return result
