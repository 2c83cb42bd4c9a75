"""AdamW and its learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from rayclf.config import TrainConfig


def default_learning_rate(method: str, parameters: int) -> float:
    """Peak rate for a backbone of so many parameters: 2e-4 for adapters (QLoRA, arXiv:2305.14314, table 9), 1e-3 for a
    head alone (Adam's own default, arXiv:1412.6980, algorithm 1), for full tuning the smaller the larger the backbone,
    from the grids of the BERT and MiniLM papers."""
    if method != "full":
        return 1e-3 if method == "head" else 2e-4
    return 1e-4 if parameters < 50e6 else 5e-5 if parameters < 200e6 else 2e-5


def make_optimizer(
    network: nn.Module, weight_decay: float, instead: Mapping[str, nn.Parameter] = MappingProxyType({})
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, or over those that are given ``instead`` of some; its rate is 0 until set.

    Matrices are decayed, and vectors (biases, norms) are not, nor are embeddings (as in OLMo 2, arXiv:2501.00656):
    words that the training texts do not have are to stay what pretraining made of them.
    """
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    decayed, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or id(parameter) in embeddings
            (others if plain else decayed).append(instead.get(name, parameter))
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = all(p.device.type in ("cpu", "cuda") for p in decayed + others)  # one kernel: 2.5 times faster on a CPU
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=fused)


def rate_at(step: int, steps: int, config: TrainConfig, peak: float) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: linear warm-up, then linear decay to 0."""
    warmup = config.warmup * steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * max(0.0, (steps - step) / max(1.0, steps - warmup))
