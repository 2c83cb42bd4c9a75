"""Packed attention: several rows in one sequence ``[1, T]``, none of which sees another.

The backbone keeps its own code. It calls whatever attention its config names, through Transformers' attention
interface; ours stands there for good (:func:`install`) and looks at the ``rows`` that a packed forward hands through
the layers as a keyword. Without them it is Transformers' own SDPA, so the padded forward is what it was. The rows come
with every call, and not from a global, because gradient checkpointing runs layers again during the backward pass.

On a GPU in half precision, one call of ``torch.nn.attention.varlen.varlen_attn`` (Flash Attention over cumulative
lengths: Dao, "FlashAttention-2", 2023) does it. Elsewhere SDPA runs over rows of equal length together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "rayclf_varlen"  # the name in config._attn_implementation, which Transformers never writes to a file
# Types whose tokens meet in attention through the interface alone, as the tests prove for each. Any other could mix
# neighbours without a word: by attention of its own, convolutions, states, or positions taken from the mask.
_ENCODERS = ("bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "starcoder2")
PACKING_TYPES = frozenset((*_ENCODERS, *_LLAMAS, "gemma", "gemma3_text", "olmo2", "phi", "phi3"))
_LAYERS = {"full_attention", "sliding_attention"}
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


def install(model: PreTrainedModel) -> None:
    """Let the backbone's attention read packed rows, where its type can; the padded forward stays as it is.

    Only SDPA, which Transformers takes by default, is replaced: an attention that the user chose is kept.
    """
    config = model.config
    known = config.model_type in PACKING_TYPES and set(getattr(config, "layer_types", None) or ()) <= _LAYERS
    if known and config._attn_implementation == "sdpa":
        model.set_attn_implementation(IMPLEMENTATION)


def unread_mask(like: Tensor) -> Tensor:
    """An empty four-dimensional mask: Transformers hands such a one on unread, and so builds none of T × T.

    Any attention but ours would fail on its shape, rather than let rows see each other.
    """
    return like.new_empty((1, 1, 0, 0), dtype=torch.bool)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    rows: Rows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function: ``[1, heads, T, width]`` to ``[1, T, heads, width]``; packed when ``rows``.

    A sliding window of ``w`` lets a token see those fewer than ``w`` away, as Flash Attention in Transformers reads it.
    """
    if rows is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            sliding_window=sliding_window,
            **kwargs,
        )
        return padded
    if kwargs.get("softcap") is not None or kwargs.get("position_bias") is not None:
        raise NotImplementedError(f"{type(module).__name__}: packed attention has no soft caps or position biases")
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    window = sliding_window if sliding_window is not None and sliding_window < rows.longest else None
    if torch.is_autocast_enabled(query.device.type):  # rotary positions leave float32 behind; varlen_attn is not cast
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if _has_kernel(query, value) and not dropout:  # the kernel has no dropout
        return _flash(query, key, value, rows, causal, window, scaling).unsqueeze(0), None
    return _by_length(query, key, value, rows, causal, window, scaling, dropout), None


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether ``varlen_attn`` takes these: half precision on an NVIDIA GPU from Ampere on, widths it knows."""
    width = query.shape[-1]
    fits = query.dtype in (torch.float16, torch.bfloat16) and width == value.shape[-1] <= 256 and width % 8 == 0
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, causal: bool, window: int | None, scaling: float | None
) -> Tensor:
    """``[1, heads, T, width]`` to ``[T, heads, width]`` in one kernel."""
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    out = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        rows.cumulative,
        rows.cumulative,
        rows.longest,
        rows.longest,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)  # a pair only where more is asked for
    return out


def _by_length(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Rows,
    causal: bool,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """``[1, heads, T, width]`` to ``[1, T, heads, width]``: SDPA over each run of rows of equal length.

    Split and joined by one operation each, so that the backward pass writes every gradient once.
    """
    sizes = [count * length for count, length in rows.runs]
    outputs = []
    parts = [torch.split(tensor[0].transpose(0, 1), sizes) for tensor in (query, key, value)]
    for (count, length), *part in zip(rows.runs, *parts, strict=True):
        mask = None
        if window is not None and window < length:
            mask = _window_mask(length, window, causal, query.device)
        q, k, v = (tensor.unflatten(0, (count, length)).transpose(1, 2) for tensor in part)
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal and mask is None and length > 1,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0)


def _window_mask(length: int, window: int, causal: bool, device: torch.device) -> Tensor:
    """True where a token sees another, ``[length, length]``."""
    place = torch.arange(length, device=device)
    ahead = place[:, None] - place
    return (ahead >= (0 if causal else -math.inf)) & (ahead.abs() < window)


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)  # of the padded forward
