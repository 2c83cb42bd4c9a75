"""Plan batches under a budget of tokens, and make a network's inputs of them: padded, or packed into one sequence.

Padded, rows of like length share a batch and its cost is rows × longest row. Packed, rows lie one after the other, and
the cost is their own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayclf.data.tokens import Ids

Batching = Literal["auto", "padded", "packed"]


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth value
class Inputs:
    """What one forward pass of a network reads, all int64.

    Padded: ids and mask ``[n, longest]``. Packed: ids ``[1, T]`` and ``lengths`` ``[n]``, which add up to T.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None
    lengths: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows in the batch."""
        return len(self.input_ids if self.lengths is None else self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of the rows, without padding."""
        return int(self.input_ids.numel() if self.attention_mask is None else self.attention_mask.sum())

    def to(self, device: torch.device | str) -> Inputs:
        """The same on a device; the lengths stay on the CPU, which reads them to plan the work of the device."""
        mask = self.attention_mask
        return replace(
            self, input_ids=self.input_ids.to(device), attention_mask=mask if mask is None else mask.to(device)
        )

    def arguments(self) -> dict[str, Tensor]:
        """Keyword arguments: ``network(**inputs.arguments())``."""
        fields = {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "lengths": self.lengths}
        return {name: tensor for name, tensor in fields.items() if tensor is not None}


def plan_batches(lengths: npt.ArrayLike, max_tokens: int, packed: bool = False) -> list[npt.NDArray[np.int64]]:
    """Row positions of each batch, longest rows first.

    The cost of a batch stays within ``max_tokens``: rows × longest length or, ``packed``, the sum of the lengths; a row
    longer than that is a batch of its own. An empty row costs one token. Every position of ``lengths`` is in exactly
    one batch. Packed or not, rows of like length are neighbours: packed attention takes those of equal length together.
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64), 1)
    order = np.argsort(-sizes, kind="stable")
    ends = np.cumsum(sizes[order])
    batches = []
    start = 0
    while start < len(order):
        if packed:
            before = ends[start - 1] if start else 0
            rows = max(1, int(np.searchsorted(ends, before + max_tokens, side="right")) - start)
        else:
            rows = max(1, max_tokens // int(sizes[order[start]]))
        batches.append(order[start : start + rows])
        start += rows
    return batches


def make_inputs(rows: Sequence[Ids], pad_token_id: int, packed: bool) -> Inputs:
    """The inputs of a batch of rows, in their order; a row without tokens is read as one pad token.

    Some tokenizers drop all that they do not know, and every row must have a state to pool.
    """
    if not packed:
        return Inputs(*pad_batch(rows, pad_token_id))
    filled = [row if len(row) else np.asarray([pad_token_id], dtype=np.int32) for row in rows]
    input_ids = np.concatenate(filled).astype(np.int64)[None]
    return Inputs(torch.from_numpy(input_ids), lengths=torch.tensor([len(row) for row in filled]))


def pad_batch(rows: Sequence[Ids], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask ``[n, longest]``, int64, padded on the right.

    A row without tokens is read as one pad token.
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
