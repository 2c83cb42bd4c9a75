"""Where rows lie in a packed sequence: one after the other, without padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

_AFTER_PAD = ("roberta", "xlm-roberta", "camembert")  # count positions from the pad token's id + 1, over other tokens


@dataclass(frozen=True)
class Rows:
    """Where the rows of a packed sequence end: their lengths, each at least 1, and the device that attends."""

    lengths: tuple[int, ...]
    device: torch.device

    @cached_property
    def cumulative(self) -> Tensor:
        """Start of each row and the end of the last, int32 ``[n + 1]``, as Flash Attention reads it."""
        ends = torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32)
        return ends.to(self.device, non_blocking=True)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.lengths)

    def behind(self, prefix: Tensor, own: Tensor) -> Tensor:
        """The packed ``own`` ``[T, …]`` with ``prefix`` ``[P, …]`` before each row: ``[n P + T, …]``."""
        return torch.cat([part for row in torch.split(own, list(self.lengths)) for part in (prefix, row)])

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Neighbours of equal length, as ``(rows, length)``: what plans sort by length makes few of them."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths)]

    def positions(self, config: Any, input_ids: Tensor) -> Tensor:
        """Position ids ``[1, T]`` that begin anew at each row, as the backbone itself numbers a row alone."""
        after_pad = config.model_type in _AFTER_PAD
        counts = input_ids[0].ne(config.pad_token_id).long() if after_pad else torch.ones_like(input_ids[0])
        seen = counts.cumsum(0)
        starts = self.cumulative[:-1].long()
        lengths = self.cumulative.diff().long()
        before = (seen - counts)[starts].repeat_interleave(lengths, output_size=len(seen))
        return ((seen - before) * counts + (config.pad_token_id if after_pad else -1)).unsqueeze(0)
