"""Plan batches: rows of like length together, under a budget of padded tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayclf.data.tokens import Ids


def plan_batches(lengths: npt.ArrayLike, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Row positions of each batch, longest rows first.

    In a batch, rows × longest length stays within ``max_tokens``; a row longer than that is a batch of its own.
    Every position of ``lengths`` is in exactly one batch.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, int(sizes[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def pad_batch(rows: Sequence[Ids], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask ``[n, longest]``, int64, padded on the right.

    A row without tokens (some tokenizers drop all that they do not know) is read as one pad token: every row must have
    a state to pool.
    """
    nothing = np.asarray([pad_token_id], dtype=np.int32)
    rows = [row if len(row) else nothing for row in rows]
    longest = max(len(row) for row in rows)
    input_ids = np.full((len(rows), longest), pad_token_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for position, row in enumerate(rows):
        input_ids[position, : len(row)] = row
        mask[position, : len(row)] = 1
    return torch.from_numpy(input_ids), torch.from_numpy(mask)
