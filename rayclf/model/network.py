"""Backbone, pooling and head as one module: token ids in, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rayclf.model import last_layer, varlen
from rayclf.model.head import Head, layout_of
from rayclf.model.last_layer import Pooled
from rayclf.model.pooling import pad_right, pool, pool_rows
from rayclf.model.prefix import Prefix
from rayclf.model.rows import Rows


class Network(nn.Module):
    """Backbone, pooling and head: token ids to logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Part a Transformers sequence classifier into its backbone and its head."""
        super().__init__()
        self.layout = layout_of(model)
        self.head = Head(model, self.layout)
        self.backbone: nn.Module = model.base_model
        self.config = model.config
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # BERT's pooler is a part of the head here
        self._options: dict[str, Any] = {"use_cache": False} if self.is_decoder else {}
        varlen.install(model.base_model)
        config = model.config
        chunked = bool(getattr(config, "chunk_size_feed_forward", 0))  # feeds pieces of fixed length
        self._short_last = (
            self.packs and self.layout.pooling != "mean" and not chunked and last_layer.install(model.base_model)
        )
        self._causal = self.packs and self.is_decoder and not getattr(config, "use_bidirectional_attention", None)

    @property
    def is_decoder(self) -> bool:
        """Whether the backbone reads from left to right, so that only the last token has seen the whole text."""
        return self.layout.pooling == "last"

    @property
    def packs(self) -> bool:
        """Whether the backbone can read several rows as one sequence; the others take padded batches only."""
        return bool(self.config._attn_implementation == varlen.IMPLEMENTATION)

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.head.parameters()).device

    @property
    def shares_prefix(self) -> bool:
        """Whether tokens that all rows begin with can be computed once: each must be the same in any row."""
        return self._causal and not _grows(getattr(self.config, "rope_parameters", None))

    @property
    def _lean(self) -> bool:
        """Whether only logits are wanted, and no gradients."""
        return not (torch.is_grad_enabled() or self.training or self._parted)

    @property
    def _parted(self) -> bool:
        """Whether ZeRO-3 has parted the weights, which it gathers layer by layer in a fixed order."""
        return hasattr(next(self.head.parameters()), "ds_id")

    @property
    def _shortens(self) -> bool:
        """Whether of the last layer only the pooled tokens are computed: the same logits and gradients.

        Not where its weights come and go, nor where checkpointing runs it again in the backward pass.
        """
        again = self.training and getattr(self.backbone, "is_activation_checkpointing", False)
        return self._short_last and self.packs and not self._parted and not again

    def read_prefix(self, input_ids: Tensor) -> Prefix:
        """Compute the tokens ``[P]`` that all rows begin with, for :meth:`forward` of the rows without them.

        Without gradients, in evaluation mode. Raises ValueError for a backbone that cannot (``shares_prefix``).
        """
        if not self.shares_prefix:
            raise ValueError(f"backbone type {self.config.model_type} cannot share a prefix")
        prefix = Prefix(len(input_ids))
        inputs = input_ids.unsqueeze(0)
        self.backbone(input_ids=inputs, attention_mask=varlen.unread_mask(inputs), prefix=prefix, **self._options)
        prefix.recording = False
        return prefix

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        lengths: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Token ids to float32 logits ``[n, K]``, of a padded or a packed batch.

        Padded: ids and ``attention_mask`` ``[n, length]``, padding on either side. Packed: ids ``[1, T]`` of rows one
        after the other, and their ``lengths`` ``[n]``, int64, each at least 1, together T; best kept on the CPU, where
        reading them makes no GPU wait. No row sees another. ``prefix`` are tokens before those of every row, by
        :meth:`read_prefix`. What no logit needs is left out: in the last layer all but the pooled tokens and, without
        gradients and in evaluation mode, masks of causal backbones. Raises ValueError for what is neither padded nor
        packed, or when the backbone cannot pack.
        """
        if prefix is not None and not self._lean:
            raise ValueError("a prefix is for inference: no gradients, evaluation mode")
        if lengths is not None:
            return self._packed(input_ids, lengths, prefix)
        if attention_mask is None:
            raise ValueError("a padded batch needs its attention_mask, a packed one its lengths")
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        options = dict[str, Any](self._options)
        read: Tensor | None = attention_mask
        if self._lean and self._causal:  # with padding on the right, no token sees any
            prefix = prefix or Prefix()
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None] + prefix.length
            options |= {"prefix": prefix, "position_ids": position_ids}
            read = varlen.unread_mask(input_ids)
        if self._shortens:
            last = attention_mask.sum(dim=1) - 1
            pooled = Pooled(self.layout.pooling, last if self.is_decoder else torch.zeros_like(last), packed=False)
            hidden = self._hidden(input_ids, read, pooled=pooled, **options)
            return self._classify(hidden[:, 0].float())
        hidden = self._hidden(input_ids, read, **options)
        return self._classify(pool(hidden, attention_mask, self.layout.pooling))

    def _packed(self, input_ids: Tensor, lengths: Tensor, prefix: Prefix | None) -> Tensor:
        if not self.packs:
            raise ValueError(f"backbone type {self.config.model_type} cannot pack rows; give padded batches")
        rows = Rows(tuple(lengths.tolist()), input_ids.device)
        if input_ids.shape != (1, sum(rows.lengths)) or min(rows.lengths) < 1:
            raise ValueError("lengths of packed rows must be at least 1 and add up to the length of the one sequence")
        options = {**self._options, "rows": rows, "position_ids": rows.positions(self.config, input_ids)}
        if prefix is not None:
            options |= {"prefix": prefix, "position_ids": options["position_ids"] + prefix.length}
        read = varlen.unread_mask(input_ids)
        if self._shortens:
            ends = rows.cumulative.long()
            pooled = Pooled(self.layout.pooling, ends[1:] - 1 if self.is_decoder else ends[:-1], packed=True)
            return self._classify(self._hidden(input_ids, read, pooled=pooled, **options)[0].float())
        hidden = self._hidden(input_ids, read, **options)
        return self._classify(pool_rows(hidden[0], rows.cumulative, self.layout.pooling))

    def _hidden(self, input_ids: Tensor, attention_mask: Tensor | None, **options: Any) -> Tensor:
        hidden: Tensor = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        return hidden

    def _classify(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.head(pooled)
        return logits


def _grows(rope: Any) -> bool:
    """Whether rotary positions depend on the longest row of a batch (dynamic NTK, LongRoPE), for any kind of layer."""
    if not isinstance(rope, Mapping):
        return False
    return rope.get("rope_type") in ("dynamic", "longrope") or any(map(_grows, rope.values()))
