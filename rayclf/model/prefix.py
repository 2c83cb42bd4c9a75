"""The tokens that all rows begin with, such as a prompt template's constant part, computed once for a decoder.

A causal token has never seen what comes after it, so the keys and values of a common beginning are the same in every
row. They are kept a layer (:class:`Prefix`) and stand before those of each row's other tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rayclf.data.tokens import Ids

SHORTEST = 8  # tokens from which a forward of their own and longer keys in every batch are worth it


class Prefix:
    """Keys and values ``[1, heads, P, width]`` of the first P tokens of every row, a layer; P is 0 for an empty one."""

    def __init__(self, length: int = 0) -> None:
        """Make one for ``length`` tokens, to be filled by a forward pass of them."""
        self.length = length
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self.recording = length > 0

    def join(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the prefix before keys and values ``[n, heads, length, width]`` of an attention module's rows.

        While ``recording``, they are those of the prefix itself, and kept.
        """
        if not self.length:
            return key, value
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        if self.recording:
            self._layers[layer] = key, value
            return key, value
        before = self._layers[layer]
        own = (key, value)
        joined = [torch.cat([a.expand(len(b), -1, -1, -1), b], dim=2) for a, b in zip(before, own, strict=True)]
        return joined[0], joined[1]


def shared_length(ids: Sequence[Ids]) -> int:
    """How many first tokens all rows share, or 0 where that is not worth a pass of its own.

    Every row keeps a token of its own, which is what is pooled. What the first and the last of the rows in
    lexicographic order share, all rows share; so two rows are compared token by token, and not all.
    """
    if len(ids) < 2:
        return 0
    shortest = min(len(row) for row in ids) - 1
    if shortest < SHORTEST or any(row[0] != ids[0][0] for row in ids):
        return 0
    # Big-endian bytes are in the order of the tokens, none of which is negative.
    heads = [row[:shortest].astype(">i4").tobytes() for row in ids]
    low, high = (np.frombuffer(head, dtype=">i4") for head in (min(heads), max(heads)))
    differ = np.flatnonzero(low != high)
    length = int(differ[0]) if len(differ) else shortest
    return length if length >= SHORTEST else 0
