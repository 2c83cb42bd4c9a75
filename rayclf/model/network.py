"""Backbone, pooling and head as one module: token ids in, logits out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rayclf.model import varlen
from rayclf.model.head import Head, layout_of
from rayclf.model.pooling import pad_right, pool, pool_rows


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

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, *, lengths: Tensor | None = None
    ) -> Tensor:
        """Token ids to float32 logits ``[n, K]``, of a padded or a packed batch.

        Padded: ids and ``attention_mask`` ``[n, length]``, padding on either side. Packed: ids ``[1, T]`` of rows one
        after the other, and their ``lengths`` ``[n]``, int64, each at least 1, together T; best kept on the CPU, where
        reading them makes no GPU wait. No row sees another. Raises ValueError for what is neither, or when the
        backbone cannot pack.
        """
        if lengths is not None:
            return self._packed(input_ids, lengths)
        if attention_mask is None:
            raise ValueError("a padded batch needs its attention_mask, a packed one its lengths")
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **self._options).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, self.layout.pooling))
        return logits

    def _packed(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        if not self.packs:
            raise ValueError(f"backbone type {self.config.model_type} cannot pack rows; give padded batches")
        rows = varlen.Rows(tuple(lengths.tolist()), input_ids.device)
        if input_ids.shape != (1, sum(rows.lengths)) or min(rows.lengths) < 1:
            raise ValueError("lengths of packed rows must be at least 1 and add up to the length of the one sequence")
        hidden = self.backbone(
            input_ids=input_ids,
            attention_mask=varlen.unread_mask(input_ids),
            position_ids=rows.positions(self.config, input_ids),
            rows=rows,
            **self._options,
        ).last_hidden_state
        logits: Tensor = self.head(pool_rows(hidden[0], rows.cumulative, self.layout.pooling))
        return logits
