"""Which rows share a batch on a CPU: the fewest batches that waste little."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Batch = npt.NDArray[np.int64]


def plan_batches(lengths: npt.ArrayLike, max_tokens: int, batch_cost: float) -> list[Batch]:
    """Row positions of each batch, longest rows first, together within ``max_tokens`` tokens with their padding.

    Rows of one length fill batches without padding; what is left of each length is shared out over batches of the
    least cost, by dynamic programming over the rows in their order: that of the tokens, padding counted, and
    ``batch_cost`` tokens for each batch. At 0 no row is padded. A row of more tokens than ``max_tokens`` is a batch of
    its own. Every position is in exactly one batch.
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)  # an empty row is read as one token
    order = np.argsort(-sizes, kind="stable")
    batches, left = list[Batch](), list[Batch]()
    for group in np.split(order, np.flatnonzero(np.diff(sizes[order])) + 1):
        if len(group):
            rows = max(1, max_tokens // int(sizes[group[0]]))
            whole = len(group) // rows * rows
            batches.extend(group[start : start + rows] for start in range(0, whole, rows))
            left.append(group[whole:])
    rest = np.concatenate(left) if left else order
    batches.extend(_share(rest, sizes[rest].tolist(), max_tokens, batch_cost))
    return sorted(batches, key=lambda batch: -int(sizes[batch[0]]))


def _share(rows: Batch, sizes: list[int], max_tokens: int, batch_cost: float) -> list[Batch]:
    """Cut rows, whose ``sizes`` do not grow, into batches."""
    best = [0.0, *([np.inf] * len(rows))]  # the least cost of so many rows
    begins = [0] * (len(rows) + 1)  # where the last batch of those begins
    for start, longest in enumerate(sizes):
        most = max(1, max_tokens // longest)
        for count in range(1, min(most, len(rows) - start) + 1):
            cost = best[start] + batch_cost + count * longest
            if cost < best[start + count]:
                best[start + count], begins[start + count] = cost, start
    found, end = list[Batch](), len(rows)
    while end:
        found.append(rows[begins[end] : end])
        end = begins[end]
    return found
