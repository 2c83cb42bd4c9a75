"""The head: from the pooled state to the logits, always float32, saved and loaded by us.

Each architecture's head has the shape that Transformers' ``…ForSequenceClassification`` gives it, so that an exported
classifier loads there, and in servers that read that layout, as it is. The table below says where its parts lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from rayclf.errors import BackboneError
from rayclf.model.pooling import Pooling


@dataclass(frozen=True)
class HeadLayout:
    """Where a ``…ForSequenceClassification`` keeps its head: dotted module paths, None for a part it has not."""

    out: str
    pooling: Pooling = "cls"
    dense: str | None = None
    activation: str | None = None
    norm: str | None = None
    dropout: str | None = None


_ROBERTA = HeadLayout("classifier.out_proj", dense="classifier.dense", activation="tanh", dropout="classifier.dropout")
_DEBERTA = HeadLayout("classifier", dense="pooler.dense", activation="gelu", dropout="dropout")
_ENCODERS = {
    "bert": HeadLayout("classifier", dense="base_model.pooler.dense", activation="tanh", dropout="dropout"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "electra": HeadLayout(
        "classifier.out_proj", dense="classifier.dense", activation="gelu", dropout="classifier.dropout"
    ),
    "distilbert": HeadLayout("classifier", dense="pre_classifier", activation="relu", dropout="dropout"),
    "deberta": _DEBERTA,
    "deberta-v2": _DEBERTA,
    "modernbert": HeadLayout("classifier", dense="head.dense", activation="gelu", norm="head.norm", dropout="drop"),
}
_DECODER = HeadLayout("score", pooling="last")


def layout_of(model: PreTrainedModel) -> HeadLayout:
    """The head layout of a Transformers sequence classifier; raises BackboneError for an unknown encoder."""
    config: PretrainedConfig = model.config
    if isinstance(getattr(model, "score", None), nn.Linear):
        return _DECODER
    layout = _ENCODERS.get(config.model_type)
    if layout is None:
        known = ", ".join(_ENCODERS)
        raise BackboneError(
            f"rayclf does not know the head of backbone type '{config.model_type}'; use a decoder or one of: {known}"
        )
    if config.model_type == "modernbert":
        return HeadLayout(
            **{**layout.__dict__, "pooling": config.classifier_pooling, "activation": config.classifier_activation}
        )
    return layout


class Head(nn.Module):
    """``out(dropout(norm(activation(dense(pooled)))))``, the middle parts only where the layout has them."""

    def __init__(self, model: PreTrainedModel, layout: HeadLayout) -> None:
        """Take the head's modules out of ``model``, with the weights they have there."""
        super().__init__()

        def part(path: str | None) -> nn.Module:
            return attrgetter(path)(model) if path else nn.Identity()

        self.dense = part(layout.dense)
        self.activation = ACT2FN[layout.activation] if layout.activation else nn.Identity()
        self.norm = part(layout.norm)
        self.dropout = part(layout.dropout)
        self.out = part(layout.out)
        self.float()

    def forward(self, pooled: Tensor) -> Tensor:
        """Float32 ``[n, width]`` to float32 logits ``[n, K]``, outside of any autocast."""
        with torch.autocast(pooled.device.type, enabled=False):
            logits: Tensor = self.out(self.dropout(self.norm(self.activation(self.dense(pooled)))))
            return logits

    @torch.no_grad()
    def begin_with(self, logits: Tensor) -> None:
        """Make ``logits [K]`` the bias, about which those of all rows lie before training; does nothing without one."""
        if isinstance(self.out.bias, Tensor):
            self.out.bias.copy_(logits)

    def put_into(self, model: PreTrainedModel, layout: HeadLayout) -> None:
        """The inverse of taking it out: set the head's modules at their places in ``model``."""
        for path, module in ((layout.dense, self.dense), (layout.norm, self.norm), (layout.out, self.out)):
            if path:
                parent, _, name = path.rpartition(".")
                setattr(attrgetter(parent)(model) if parent else model, name, module)
