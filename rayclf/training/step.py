"""One optimiser step over a global batch, on any number of workers.

The loss is the mean over the known targets of the whole global batch: every micro-batch on every worker adds its sum
divided by the global count, and gradients are summed. So padding, packing, unknown targets, uneven shares, a short last
batch and the number of workers change nothing about the result (a mean of means, as in averaging each micro-batch,
would).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rayclf.data.tokens import TokenBatch
from rayclf.model.packing import Inputs, make_inputs, plan_batches
from rayclf.training.losses import TrainingLoss
from rayclf.training.strategies import Strategy, all_sum


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes, and its targets ``[n, K]`` (1, 0, NaN unknown)."""

    inputs: Inputs
    targets: Tensor


@dataclass(frozen=True)
class StepResult:
    """Mean loss of the global batch, weighted where labels are; the gradient norm before clipping; rows, tokens.

    ``signals`` are those of :func:`train_step`, each true where it was for any worker.
    """

    loss: float
    grad_norm: float
    rows: int
    tokens: int
    signals: tuple[bool, ...] = ()


def micro_batches(batch: TokenBatch, max_tokens: int, pad_token_id: int, packed: bool = False) -> list[MicroBatch]:
    """Cut a worker's rows into micro-batches of at most ``max_tokens``, padding counted: the same gradient as in one.

    Rows of like length go together, so that there is hardly any padding; ``packed`` ones have none.
    """
    plan = plan_batches([len(ids) for ids in batch.input_ids], max_tokens, packed)
    return [
        MicroBatch(
            make_inputs([batch.input_ids[i] for i in rows], pad_token_id, packed),
            torch.from_numpy(batch.targets[rows]),
        )
        for rows in plan
    ]


def train_step(
    strategy: Strategy,
    micros: Sequence[MicroBatch],
    loss: TrainingLoss,
    *,
    learning_rate: float,
    device: torch.device,
    bf16: bool = False,
    signals: Sequence[bool] = (),
) -> StepResult:
    """Forward, backward, sum over workers, clip, update; every worker calls it for every step.

    A worker without rows passes no micro-batches. What one worker has to tell all of them, such as that it is to stop,
    goes along as ``signals``.
    """
    wide = torch.float64 if device.type != "mps" else torch.float32
    mine = [
        sum(loss.terms(m.targets) for m in micros),
        sum(len(m.targets) for m in micros),
        sum(m.inputs.tokens for m in micros),
        *map(float, signals),
    ]
    counts = torch.tensor(mine, dtype=wide, device=device)
    all_sum([counts])
    terms, rows, tokens, *told = counts.tolist()
    total = torch.zeros(1, device=device)
    passes = _most(len(micros), device) if strategy.equal_passes else len(micros)
    for number in range(passes):
        # Where the network is parted over the workers, one without rows takes part in the pass with a single token.
        micro = micros[number] if number < len(micros) else None
        inputs = micro.inputs if micro else make_inputs([_NOTHING], 0, False)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = strategy.network(**inputs.to(device).arguments())
        # Not max(terms, 1): weights may add up to less than 1. They add up to 0 where every target is unknown.
        part = loss.total(logits, micro.targets.to(device)) / (terms or 1.0) if micro else logits.sum() * 0.0
        strategy.backward(part, last=number == passes - 1)
        total += part.detach()
    norm = strategy.update(learning_rate)
    all_sum([total])
    return StepResult(float(total), norm, int(rows), int(tokens), tuple(n > 0 for n in told))


_NOTHING = np.zeros(1, np.int32)


def _most(count: int, device: torch.device) -> int:
    most = torch.tensor([count], device=device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return int(most)
