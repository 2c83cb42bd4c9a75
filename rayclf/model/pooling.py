"""From the hidden states of all tokens to one state a row, by the attention mask and never by the pad token's id.

Batches are brought to right padding first. So left padding, right padding, a pad token that equals the end token,
and any company in the batch give a row the same logits, and absolute positions need no care.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "last"]


def pad_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of each row of ``[n, length]`` to its end, keeping the order of the tokens."""
    order = attention_mask.argsort(dim=1, descending=True, stable=True)
    return input_ids.gather(1, order), attention_mask.gather(1, order)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """``[n, length, width]`` to float32 ``[n, width]``, for right-padded rows of at least one token."""
    if pooling == "cls":
        return hidden[:, 0].float()
    if pooling == "last":
        last = attention_mask.sum(dim=1) - 1
        return hidden[torch.arange(len(hidden), device=hidden.device), last].float()
    weights = attention_mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def pool_rows(hidden: Tensor, ends: Tensor, pooling: Pooling) -> Tensor:
    """``[T, width]`` of rows one after the other to float32 ``[n, width]``.

    ``ends`` is where the first row starts, 0, and where each ends: int ``[n + 1]``, growing, the last T.
    """
    if pooling == "cls":
        return hidden[ends[:-1]].float()
    if pooling == "last":
        return hidden[ends[1:] - 1].float()
    # Sums of whole rows: index_add would add in another order each time on a GPU.
    return torch.segment_reduce(hidden.float(), "mean", offsets=ends.long(), axis=0)
