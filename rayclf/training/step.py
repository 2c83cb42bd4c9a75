"""One optimiser step over a global batch, on any number of workers.

The loss is the mean over the known targets of the whole global batch: every micro-batch on every worker adds its sum
divided by the global count, and gradients are summed. So padding, unknown targets, uneven shards, a short last batch
and the number of workers change nothing about the result (a mean of means, as in averaging each micro-batch, would).

Label weights keep that law, and mean what they mean in PyTorch: cross-entropy is divided by the global sum of the rows'
weights (``CrossEntropyLoss(weight=…)``), binary cross-entropy by the count of known targets, whatever they weigh
(``BCEWithLogitsLoss(pos_weight=…)``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from rayclf.data.tokens import TokenBatch
from rayclf.data.weights import LabelWeights
from rayclf.labels import ProblemType
from rayclf.model.packing import pad_batch, plan_batches

_BUCKET = 2**23  # gradient elements in one collective: 32 MiB


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass takes: ids and mask ``[n, length]``, targets ``[n, K]`` (1, 0, NaN unknown)."""

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth value
class TargetWeights:
    """:class:`LabelWeights` on the device that trains: the weight of a 1 and of a 0 of each label, float32 ``[K]``."""

    positive: Tensor
    negative: Tensor

    @classmethod
    def on(cls, device: torch.device, weights: LabelWeights) -> TargetWeights:
        """The weights, copied to a device."""
        return cls(torch.tensor(weights.positive, device=device), torch.tensor(weights.negative, device=device))


@dataclass(frozen=True)
class StepResult:
    """Mean loss of the global batch, weighted where labels are; the gradient norm before clipping; rows and tokens."""

    loss: float
    grad_norm: float
    rows: int
    tokens: int


def micro_batches(batch: TokenBatch, max_tokens: int, pad_token_id: int) -> list[MicroBatch]:
    """Cut a worker's rows into micro-batches of like length: the same gradient as in one, with far less padding."""
    plan = plan_batches([len(ids) for ids in batch.input_ids], max_tokens)
    return [
        MicroBatch(*pad_batch([batch.input_ids[i] for i in rows], pad_token_id), torch.from_numpy(batch.targets[rows]))
        for rows in plan
    ]


def loss_sum(
    logits: Tensor, targets: Tensor, problem_type: ProblemType, weights: TargetWeights | None = None
) -> Tensor:
    """Summed loss of ``[n, K]`` logits: cross-entropy a row, or binary cross-entropy a known target; each weighted."""
    if problem_type is ProblemType.MULTICLASS:
        weight = weights.positive if weights else None
        return F.cross_entropy(logits, targets.argmax(dim=1), weight=weight, reduction="sum")
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(logits, targets.nan_to_num(0.0), reduction="none")
    if weights:
        losses = losses * torch.where(targets == 1, weights.positive, weights.negative)
    return (losses * known).sum()


def loss_terms(targets: Tensor, problem_type: ProblemType, weights: TargetWeights | None = None) -> float:
    """What the sum of :func:`loss_sum` is divided by for its mean: the rows, their weights, or the known targets."""
    if problem_type is not ProblemType.MULTICLASS:
        return float((~targets.isnan()).sum())
    if weights is None:
        return float(len(targets))
    return float(weights.positive[targets.argmax(dim=1).to(weights.positive.device)].sum())


def train_step(
    network: nn.Module,
    micros: Sequence[MicroBatch],
    optimizer: torch.optim.Optimizer,
    problem_type: ProblemType,
    *,
    device: torch.device,
    max_grad_norm: float,
    bf16: bool = False,
    weights: TargetWeights | None = None,
) -> StepResult | None:
    """Forward, backward, sum over workers, clip, update. None when no worker has a row left.

    Every worker must call it the same number of times; one without rows passes no micro-batches.
    """
    counts = torch.tensor(
        [
            float(sum(loss_terms(m.targets, problem_type, weights) for m in micros)),
            float(sum(len(m.targets) for m in micros)),
            float(sum(int(m.attention_mask.sum()) for m in micros)),
        ],
        dtype=torch.float64 if device.type != "mps" else torch.float32,
        device=device,
    )
    all_sum([counts])
    terms, rows, tokens = counts.tolist()
    if not rows:
        return None
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros(1, device=device)
    for micro in micros:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(micro.input_ids.to(device), micro.attention_mask.to(device))
        # Not max(terms, 1): weights may add up to less than 1. They add up to 0 where every target is unknown.
        loss = loss_sum(logits, micro.targets.to(device), problem_type, weights) / (terms or 1.0)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's method is untyped
        total += loss.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    all_sum([*(p.grad for p in parameters if p.grad is not None), total])
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    return StepResult(float(total), float(norm), int(rows), int(tokens))


def all_sum(tensors: Iterable[Tensor]) -> None:
    """Sum tensors over all workers, in place; flattened into few collectives, nothing to do for one worker."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    bucket: list[Tensor] = []
    for tensor in [*tensors, None]:
        full = sum(t.numel() for t in bucket) >= _BUCKET
        if bucket and (tensor is None or full or tensor.dtype != bucket[0].dtype):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            for target, part in zip(bucket, torch.split(flat, [t.numel() for t in bucket]), strict=True):
                target.copy_(part.view_as(target))
            bucket = []
        if tensor is not None:
            bucket.append(tensor)
