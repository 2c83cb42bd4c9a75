"""AdamW and its learning rate."""

from __future__ import annotations

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


def make_optimizer(network: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors (biases, norms) are not decayed. Its rate is 0 until it is set."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in trainable)  # one kernel: 2.5 times faster on a CPU
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, fused=fused)


def rate_at(step: int, steps: int, config: TrainConfig, peak: float) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: linear warm-up, then linear decay to 0."""
    warmup = config.warmup * steps
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    return peak * max(0.0, (steps - step) / max(1.0, steps - warmup))
