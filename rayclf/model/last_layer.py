"""Of the last layer, only what pooling reads: keys and values of all tokens, and everything else of one token a row.

Pooling by ``cls`` or ``last`` takes one state a row, and after the last layer's attention no token is read by another.
So a hook before the last layer runs it twice: over all tokens as far as its attention, which keeps keys and values and
ends the run there (:class:`Enough`); then over the pooled tokens alone, whose attention reads what was kept. The layer
keeps its own code, whatever its norms, its residual connections and its adapters are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rayclf.model.pooling import Pooling

_STACKS = ("layers", "encoder.layer", "transformer.layer")  # where a backbone keeps its layers


class Enough(Exception):
    """The keys and values are there, and nothing else of this run of the layer is wanted."""


class Pooled:
    """The one token of each row that is pooled, and what the last layer's attention lets it read."""

    def __init__(self, pooling: Pooling, places: Tensor, packed: bool) -> None:
        """``places`` int64 ``[n]`` are positions in the packed sequence, or in each padded row."""
        self.pooling = pooling
        self.places = places
        self.packed = packed
        self.seen: tuple[Tensor, Tensor, Tensor | None] | None = None

    def take(self, states: Tensor) -> Tensor:
        """``[n or 1, length, …]`` to the pooled tokens: ``[n, 1, …]``, or ``[1, n, …]`` of a packed sequence."""
        if self.packed:
            return states[:, self.places]
        numbers = torch.arange(len(self.places), device=states.device)
        return states.expand(len(numbers), *states.shape[1:])[numbers, self.places].unsqueeze(1)

    def keep(self, key: Tensor, value: Tensor, attention_mask: Tensor | None) -> None:
        """Keep what all tokens are read by, the mask as the pooled tokens see it; then raise Enough."""
        if attention_mask is not None and attention_mask.shape[2] > 1:
            attention_mask = self.take(attention_mask.transpose(1, 2)).transpose(1, 2)
        self.seen = key, value, attention_mask
        raise Enough


def install(backbone: nn.Module) -> bool:
    """Put the hook before the last layer; False where it is not found. It acts only in a forward given ``pooled``."""
    for path in _STACKS:
        try:
            stack = backbone.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(stack, nn.ModuleList) and len(stack):
            if _restrict not in stack[-1]._forward_pre_hooks.values():  # the backbone may be parted a second time
                stack[-1].register_forward_pre_hook(_restrict, with_kwargs=True)
            return True
    return False


def _restrict(layer: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    pooled = kwargs.get("pooled")
    if not isinstance(pooled, Pooled):
        return tuple(args), kwargs
    kwargs = {**kwargs, "reading": pooled}
    try:
        layer.forward(*args, **kwargs)
        raise TypeError(f"{type(layer).__name__}: its attention is not rayclf's")
    except Enough:
        pass
    if args:
        args = (pooled.take(args[0]), *args[1:])
    else:
        kwargs["hidden_states"] = pooled.take(kwargs["hidden_states"])
    if kwargs.get("position_embeddings") is not None:
        kwargs["position_embeddings"] = tuple(pooled.take(table) for table in kwargs["position_embeddings"])
    return tuple(args), kwargs
