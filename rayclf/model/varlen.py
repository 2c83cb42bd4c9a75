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
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rayclf.model.last_layer import Pooled
from rayclf.model.prefix import Prefix
from rayclf.model.rows import Rows as Rows  # also as varlen.Rows

IMPLEMENTATION = "rayclf_varlen"  # the name in config._attn_implementation, which Transformers never writes to a file
# Types whose tokens meet in attention through the interface alone, as the tests prove for each. Any other could mix
# neighbours without a word: by attention of its own, convolutions, states, or positions taken from the mask.
_ENCODERS = ("bert", "camembert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
_LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "starcoder2")
PACKING_TYPES = frozenset((*_ENCODERS, *_LLAMAS, "gemma", "gemma3_text", "olmo2", "phi", "phi3"))
_LAYERS = {"full_attention", "sliding_attention"}
_LONG = 256  # tokens of a row


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


@dataclass(frozen=True)
class _Sight:
    """How tokens see each other in one layer: its own module, the window in tokens, and what comes before each row."""

    module: nn.Module
    causal: bool
    window: int | None
    scaling: float | None
    dropout: float
    prefix: Prefix

    def narrow(self, length: int) -> int | None:
        """The window, where it is shorter than ``length`` tokens."""
        return self.window if self.window is not None and self.window < length else None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    rows: Rows | None = None,
    **how: Any,
) -> tuple[Tensor, None]:
    """Transformers' attention function, :func:`_attend` in the precision that is fastest.

    On a CPU, where gradients follow, that is float32 for rows of less than 256 tokens: PyTorch 2.13's backward pass in
    bfloat16 takes 4 times as long for rows of 128 tokens, 8 times for 50, 20 times for 12 (heads of 32, one thread).
    """
    low = query.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")
    learns = query.requires_grad and torch.is_grad_enabled()
    longest = key.shape[2] if rows is None else rows.longest
    if low and learns and query.device.type == "cpu" and longest < _LONG:
        with torch.autocast("cpu", enabled=False):
            out, _ = _attend(module, query.float(), key.float(), value.float(), attention_mask, rows=rows, **how)
        return out.to(query.dtype), None
    return _attend(module, query, key, value, attention_mask, rows=rows, **how)


def _attend(
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
    prefix: Prefix | None = None,
    reading: Pooled | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """``[n, heads, length, width]`` to ``[n, length, heads, width]``.

    Packed when ``rows``, n is then 1. A ``prefix``, be it empty, says that the rows are causal and padded on the right
    at most, so that nothing needs a mask. ``reading`` is of the last layer: the queries are the pooled tokens'. A
    sliding window of ``w`` lets a token see those fewer than ``w`` away, as Flash Attention in Transformers reads it.
    """
    if rows is None and prefix is None:
        if reading is not None:
            if reading.seen is None:
                reading.keep(key, value, attention_mask)
            assert reading.seen is not None
            key, value, attention_mask = reading.seen
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
        raise TypeError(f"{type(module).__name__}: packed attention has no soft caps or position biases")
    if torch.is_autocast_enabled(query.device.type):  # rotary positions leave float32 behind; varlen_attn is not cast
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if reading is not None:
        if reading.seen is None:
            reading.keep(key, value, None)
        assert reading.seen is not None
        key, value, _ = reading.seen
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    sight = _Sight(module, causal, sliding_window, scaling, dropout, prefix or Prefix())
    if rows is None:
        return _padded(query, key, value, sight, reading), None
    # The kernel has no dropout, and its windows end with a row: of a row's first token alone it knows none.
    first = reading is not None and reading.pooling == "cls" and sliding_window is not None
    if _has_kernel(query, value) and not dropout and not first:
        return _flash(query, key, value, rows, sight, reading).unsqueeze(0), None
    return _by_length(query, key, value, rows, sight, reading), None


def _padded(query: Tensor, key: Tensor, value: Tensor, sight: _Sight, reading: Pooled | None) -> Tensor:
    """``[n, heads, length, width]`` of causal rows, padded on the right, to ``[n, length, heads, width]``."""
    key, value = sight.prefix.join(sight.module, key, value)
    mask = None
    if reading is not None:
        behind = (reading.places + sight.prefix.length)[:, None] - torch.arange(key.shape[2], device=key.device)
        mask = behind >= 0
        if sight.window is not None:
            mask &= behind < sight.window
        mask = mask[:, None, None]
    return _dense(query, key, value, sight, mask).transpose(1, 2)


def _dense(query: Tensor, key: Tensor, value: Tensor, sight: _Sight, mask: Tensor | None = None) -> Tensor:
    """SDPA of rows of equal length ``[n, heads, length, width]``, whose queries are the last of the keys' tokens."""
    length, total = query.shape[2], key.shape[2]
    window = sight.narrow(total)
    if mask is None and (window is not None or (sight.causal and 1 < length < total)):
        mask = _mask(length, total, window, sight.causal, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=sight.dropout,
        is_causal=sight.causal and mask is None and length > 1,
        scale=sight.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    """Whether ``varlen_attn`` takes these: half precision on an NVIDIA GPU from Ampere on, widths it knows."""
    width = query.shape[-1]
    fits = query.dtype in (torch.float16, torch.bfloat16) and width == value.shape[-1] <= 256 and width % 8 == 0
    return query.is_cuda and fits and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, sight: _Sight, reading: Pooled | None = None
) -> Tensor:
    """``[1, heads, T, width]`` to ``[T, heads, width]`` in one kernel; T is n where only pooled tokens ask."""
    from torch.nn.attention.varlen import varlen_attn

    ends = asked = rows.cumulative
    longest = most = rows.longest
    keys, values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if sight.prefix.length:
        before = sight.prefix.join(sight.module, key[:, :, :0], value[:, :, :0])
        keys, values = (rows.behind(a[0].transpose(0, 1), b) for a, b in zip(before, (keys, values), strict=True))
        ends = ends + sight.prefix.length * torch.arange(len(ends), dtype=ends.dtype, device=ends.device)
        longest += sight.prefix.length
    if reading is not None:
        asked, most = torch.arange(len(ends), dtype=ends.dtype, device=ends.device), 1
    window = sight.narrow(longest)
    reach = -1 if window is None else window - 1
    out = varlen_attn(
        query[0].transpose(0, 1),
        keys,
        values,
        asked,
        ends,
        most,
        longest,
        scale=sight.scaling,
        window_size=(reach, 0 if sight.causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)  # a pair only where more is asked for
    return out


def _by_length(
    query: Tensor, key: Tensor, value: Tensor, rows: Rows, sight: _Sight, reading: Pooled | None = None
) -> Tensor:
    """``[1, heads, T, width]`` to ``[1, T, heads, width]``: SDPA over each run of rows of equal length.

    Split and joined by one operation each, so that the backward pass writes every gradient once.
    """
    sizes = [count * length for count, length in rows.runs]
    asked = sizes if reading is None else [count for count, _ in rows.runs]
    outputs = []
    parts = [
        torch.split(tensor[0].transpose(0, 1), into) for tensor, into in ((query, asked), (key, sizes), (value, sizes))
    ]
    for (count, _), *part in zip(rows.runs, *parts, strict=True):
        q, k, v = (tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in part)
        k, v = sight.prefix.join(sight.module, k, v)
        if reading is not None and sight.narrow(k.shape[2]) is not None:
            own = slice(sight.window) if reading.pooling == "cls" else slice(-(sight.window or 0), None)
            k, v = k[:, :, own], v[:, :, own]
        outputs.append(_dense(q, k, v, sight).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).unsqueeze(0)


@lru_cache(maxsize=2)  # the layers of one batch: with a window and without
def _mask(length: int, total: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """True where one of the last ``length`` of ``total`` tokens sees a token, ``[length, total]``."""
    ahead = torch.arange(total - length, total, device=device)[:, None] - torch.arange(total, device=device)
    return (ahead >= (0 if causal else -math.inf)) & (ahead.abs() < (math.inf if window is None else window))


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)  # of the padded forward
