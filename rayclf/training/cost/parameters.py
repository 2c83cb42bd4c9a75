"""What a network consists of, known without its weights: parameters by kind, and the widths that activations have.

The architecture is built on PyTorch's meta device from ``config.json`` alone, and adapters are put on it by PEFT, so
that counts are those of the layers training will have.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rayclf.config import LoraConfig
from rayclf.errors import BackboneError, one_line
from rayclf.model.adapters import add_lora
from rayclf.model.network import Network

_WRITTEN_OUT = {
    "NewGELUActivation": 4,
    "FastGELUActivation": 4,
}  # activations of many small steps, each saving its input


@dataclass(frozen=True)
class Block:
    """What the backward pass needs of one layer's forward pass, in elements a token (see :func:`memory.activations`).

    ``inputs`` are the widths of all linear layers' inputs, ``shared`` the same with an input that several layers
    read counted once; ``adapted`` and ``adapted_out`` the inputs and outputs of adapted layers, ``norms`` the widths of
    norms, ``scaled_norms`` of those that are written out in float32 (RMSNorm).
    """

    parameters: int
    inputs: int
    shared: int
    attention: int
    activation: int
    norms: int
    scaled_norms: int
    adapted: int
    adapted_out: int
    adapted_layers: int
    widest: int


@dataclass(frozen=True)
class Shape:
    """A network's parameters: ``backbone`` in all, of which ``embedding`` are looked up and ``linear`` quantisable.

    ``adapters`` are LoRA's, ``active`` the backbone's that a token is multiplied with (of experts only those
    chosen), ``largest`` the largest tensor, ``largest_matrix`` the largest linear one, ``gathered`` the largest layer
    or embedding. ``attention`` is the width of all heads, ``eager_heads`` their number where each keeps a score for
    every pair of tokens (no fused attention), ``positions`` the most tokens of a text, None for no limit.
    """

    model_type: str
    decoder: bool
    layers: int
    hidden: int
    attention: int
    eager_heads: int
    positions: int | None
    backbone: int
    embedding: int
    linear: int
    active: int
    head: int
    adapters: int
    largest: int
    largest_adapter: int
    largest_matrix: int
    gathered: int
    block: Block

    def trained(self, method: str) -> int:
        """Parameters that the optimizer changes."""
        return self.head + {"full": self.backbone, "head": 0}.get(method, self.adapters)


def read_shape(folder: Path, labels: int, lora: LoraConfig | None = None) -> Shape:
    """The shape of the backbone in ``folder`` under a head for ``labels`` outputs, with the adapters of ``lora``.

    Raises BackboneError for a config that Transformers cannot put a classifier on, ConfigError for unknown target
    modules of LoRA.
    """
    try:
        config = AutoConfig.from_pretrained(folder, num_labels=labels)
        with torch.device("meta"):
            network = Network(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))
    except BackboneError:
        raise
    except Exception as error:  # whatever Transformers makes of a config that it does not like
        raise BackboneError(
            f"--backbone {folder}: not one that Transformers can put a classifier on ({one_line(error)})"
        ) from None
    return shape_of(network, lora)


def shape_of(network: Network, lora: LoraConfig | None = None) -> Shape:
    """The shape of a network on the meta device, to which adapters are added where ``lora`` is given."""
    backbone, config = network.backbone, network.config.get_text_config()
    parameters = dict(backbone.named_parameters())
    total = sum(p.numel() for p in parameters.values())
    embeddings = [m for m in backbone.modules() if isinstance(m, nn.Embedding)]
    embedding = sum(m.weight.numel() for m in embeddings)
    linears = [m for m in backbone.modules() if isinstance(m, nn.Linear)]
    experts = sum(p.numel() for name, p in parameters.items() if ".experts." in name)
    of = max(int(getattr(config, name, None) or 0) for name in _EXPERTS)
    idle = int(experts * (1 - min(1.0, _chosen(config) / of))) if of else 0
    layers = _layers(backbone)
    heads = int(config.num_attention_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    first = layers[-1]
    largest_layer = max(sum(p.numel() for p in layer.parameters()) for layer in layers)
    adapted = _adapted(network, lora) if lora else []
    sizes = [lora.r * n for m in adapted for n in (m.in_features, m.out_features)] if lora else []
    in_block = [m for m in first.modules() if any(m is other for other in adapted)]
    extra = sum(m.out_features for m in adapted) if lora and lora.dora else 0
    offset = int(config.pad_token_id or 0) + 1 if network.config.model_type in _AFTER_PAD else 0
    positions = getattr(config, "max_position_embeddings", None)
    return Shape(
        model_type=network.config.model_type,
        decoder=network.is_decoder,
        layers=len(layers),
        hidden=int(config.hidden_size),
        attention=heads * head_dim,
        eager_heads=heads if getattr(network.config, "_attn_implementation", None) == "eager" else 0,
        positions=int(positions) - offset if positions else None,
        backbone=total,
        embedding=embedding,
        linear=sum(m.weight.numel() for m in linears),
        active=total - embedding - idle,
        head=sum(p.numel() for p in network.head.parameters()),
        adapters=sum(sizes) + extra,
        largest=max(p.numel() for p in parameters.values()),
        largest_adapter=max(sizes, default=0),
        largest_matrix=max((m.weight.numel() for m in linears), default=0),
        gathered=max(largest_layer, *(m.weight.numel() for m in embeddings)),
        block=_block(first, int(config.hidden_size), heads * head_dim, config, in_block),
    )


_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def _chosen(config: Any) -> int:
    """How many experts a token goes through, 0 where there are none."""
    return int(getattr(config, "num_experts_per_tok", None) or 0)


_AFTER_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")  # see rayclf.model.backbone


def _layers(backbone: nn.Module) -> nn.ModuleList:
    """The list of transformer layers: of all module lists the one with the most parameters."""
    lists = [m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise BackboneError("--backbone: no list of transformer layers found in it; its memory cannot be planned")
    return max(lists, key=lambda m: sum(p.numel() for p in m.parameters()))


def _adapted(network: Network, lora: LoraConfig) -> list[Any]:
    """The linear layers that PEFT adapts; the network on the meta device is changed."""
    with torch.device("meta"):
        add_lora(network, lora.model_copy(update={"dora": False}))  # its size is a row of numbers for each layer
    return [m.base_layer for m in network.backbone.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]


def _block(layer: Any, hidden: int, attention: int, config: Any, adapted: list[Any]) -> Block:
    linears = [(n, m) for n, m in layer.named_modules() if isinstance(m, nn.Linear) and "lora_" not in n]
    linears = [(n.removesuffix(".base_layer"), m) for n, m in linears]
    mlp = [m for n, m in linears if "attn" not in n and "attention" not in n]
    wide = max([m.in_features for m in mlp] or [0])
    widened = sum(m.out_features for m in mlp) - hidden
    moe = 0
    if wide == 0 or _chosen(config):
        # Experts are kept as tensors of three dimensions: each chosen one is as wide as the config says.
        wide = int(getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None) or 0)
        wide *= max(1, _chosen(config))
        widened, moe = 2 * wide, wide + hidden
    written_out = max([_WRITTEN_OUT.get(type(m).__name__, 1) for m in layer.modules()], default=1)
    activation = 3 * wide if widened >= 2 * wide else written_out * wide
    norms = [m for m in layer.modules() if "Norm" in type(m).__name__ and getattr(m, "weight", None) is not None]
    full = [m for m in norms if m.weight.numel() >= hidden]  # norms of single heads are counted with the attention
    fused = any(m.out_features >= 3 * attention for n, m in linears if m not in mlp)  # values hold on to the whole
    inputs = {(n.rpartition(".")[0], m.in_features) for n, m in linears}
    return Block(
        parameters=sum(p.numel() for n, p in layer.named_parameters() if "lora_" not in n),
        inputs=sum(m.in_features for _, m in linears) + moe,
        shared=sum(width for _, width in inputs) + moe,
        attention=(5 if fused else 3) * attention + (2 * attention if len(full) < len(norms) else 0),
        activation=activation,
        norms=hidden * len(full),
        scaled_norms=hidden * sum("RMS" in type(m).__name__ for m in full),
        adapted=sum(m.in_features for m in adapted),
        adapted_out=sum(m.out_features for m in adapted),
        adapted_layers=len(adapted),
        widest=max(widened, 2 * wide, 3 * attention),
    )
