"""Gradient checkpointing: less memory for activations, which the backward pass computes again."""

from __future__ import annotations

from typing import Any

from rayclf.errors import ConfigError
from rayclf.model.network import Network


def enable_checkpointing(network: Network) -> None:
    """Keep only the inputs of each backbone layer while training; the gradients are the same (arXiv:1604.06174).

    For any tuning. The reentrant kind would lose the gradients of adapters under frozen embeddings, whose output asks
    for none; this one does not need it to. Raises ConfigError for a backbone that cannot.
    """
    backbone = network.backbone
    model: Any = backbone.get_base_model() if hasattr(backbone, "peft_config") else backbone  # type: ignore[operator]
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError:
        kind = network.config.model_type
        raise ConfigError(f"train.gradient_checkpointing: a backbone of type '{kind}' has none; set it false") from None
