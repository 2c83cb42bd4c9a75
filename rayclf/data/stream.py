"""Canonical rows to the training workers, read and tokenized by Ray tasks anywhere in the cluster, ahead of training.

Ray Data's ``streaming_split`` hands out blocks as they come, so that neither the rows of a step nor the place to resume
at could be told. Here each worker asks for its rows by number (see :mod:`rayclf.data.order`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa
import ray

from rayclf.data.dataset import Dataset
from rayclf.data.order import EpochOrder, Rows
from rayclf.data.tokens import Encoding, TokenBatch, tokenize_rows
from rayclf.labels import dense_targets

_TASK_ROWS = 2048
_AHEAD = 3  # tasks in flight for each worker


def epoch_batches(
    dataset: Dataset, encoding: Encoding, order: EpochOrder, *, rank: int = 0, world: int = 1, start: int = 0
) -> Iterator[TokenBatch]:
    """A worker's rows of each step from step ``start`` of the epoch on, one batch a step.

    The first of them are on their way when this returns. A step whose batch has fewer rows than there are workers gives
    some of them a batch without rows.
    """
    shared = ray.put(encoding)
    tasks = (
        _read.remote(dataset.folder, share.window, share.rows[first:last], share.steps[first:last], shared)
        for share in order.shares(rank, world, start)
        for first, last in pairwise([*range(0, len(share.rows), _TASK_ROWS), len(share.rows)])
    )
    pending = deque(islice(tasks, _AHEAD))
    return _batches(_pieces(pending, tasks), range(start, order.steps), len(dataset.space))


def _batches(pieces: Iterator[pa.Table], steps: range, labels: int) -> Iterator[TokenBatch]:
    piece = next(pieces, None)
    for step in steps:
        parts = []
        while piece is not None:
            count = int(np.searchsorted(piece["step"].to_numpy(), step, side="right"))
            parts.append(piece.slice(0, count))
            if count < piece.num_rows:
                piece = piece.slice(count)
                break
            piece = next(pieces, None)
        yield _batch(parts, labels)


def _pieces(pending: deque[ray.ObjectRef], tasks: Iterator[ray.ObjectRef]) -> Iterator[pa.Table]:
    """The tokenized rows in order; as many tasks as are pending now are always on their way."""
    while pending:
        yield ray.get(pending.popleft())
        pending.extend(islice(tasks, 1))


@ray.remote(num_cpus=1, scheduling_strategy="DEFAULT")  # type: ignore[untyped-decorator]  # Ray's
def _read(folder: str, window: tuple[int, int], rows: Rows, steps: Rows, encoding: Encoding) -> pa.Table:
    taken = _window(folder, *window).take(pa.array(rows - window[0]))
    tokens = tokenize_rows(taken, encoding)
    return tokens.append_column("row", pa.array(rows)).append_column("step", pa.array(steps)).combine_chunks()


@lru_cache(maxsize=1)  # a worker's next task reads the same window
def _window(folder: str, start: int, stop: int) -> pa.Table:
    return Dataset.open(folder).read("train", start, stop).drop_columns(["id"])


def _batch(parts: list[pa.Table], labels: int) -> TokenBatch:
    if not any(part.num_rows for part in parts):
        return TokenBatch(np.empty(0, np.int64), [], np.empty((0, labels), np.float32))
    rows = pa.concat_tables(parts).combine_chunks()
    ids, positive, unknown = (rows[name].chunk(0) for name in ("input_ids", "positive", "unknown"))
    bounds = ids.offsets.to_numpy() - ids.offsets[0].as_py()
    return TokenBatch(
        rows["row"].to_numpy(),
        np.split(ids.flatten().to_numpy(), bounds[1:-1]),
        dense_targets(positive, unknown, labels),
    )
