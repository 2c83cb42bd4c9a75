"""How the workers do one optimiser step together: the contract, and the two strategies that need PyTorch alone.

``single`` and ``ddp`` are one class: every worker has the whole network, and gradients are summed over the workers
once a step, after the last micro-batch. PyTorch's DistributedDataParallel takes the mean of the workers instead, wants
every parameter used in every pass, and the same number of passes of all; none of that holds for batches planned by
tokens. :mod:`rayclf.training.zero` has DeepSpeed's strategies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayclf.config import TrainConfig
from rayclf.model.network import Network
from rayclf.training.embedding_rows import find_rows
from rayclf.training.optimizer import make_optimizer

_BUCKET = 2**23  # gradient elements in one collective: 32 MiB
OptimizerState = Mapping[str, Mapping[str, Tensor]]  # by parameter name: exp_avg, exp_avg_sq, step


class Strategy(Protocol):
    """What a step needs of the workers' way to share the work. All methods are called by every worker at once."""

    @property
    def network(self) -> nn.Module:
        """What is called for logits while training."""

    @property
    def equal_passes(self) -> bool:
        """Whether all workers must make the same number of forward and backward passes."""

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of this worker's part of the loss; ``last`` tells the last micro-batch of the step."""

    def update(self, learning_rate: float) -> float:
        """Sum the gradients over the workers, clip them, step, clear them; returns their norm before clipping."""

    def weights(self) -> dict[str, Tensor]:
        """On worker 0 the trained tensors, whole, on the CPU, under their names in the Network; else empty."""

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """On worker 0 the optimizer's whole state by parameter name, on the CPU; else empty."""

    def load_optimizer_state(self, state: OptimizerState) -> None:
        """Take up the state that :meth:`optimizer_state` gave, under whatever strategy and number of workers."""

    def evaluating(self) -> AbstractContextManager[Network]:
        """A context in which each worker may run the network as often as it has batches, without gradients."""


class Replicated:
    """Every worker holds the whole network: ``single``, and ``ddp`` with several workers."""

    equal_passes = False

    def __init__(self, network: Network, config: TrainConfig) -> None:
        self.network = network
        self._max_grad_norm = config.max_grad_norm
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._rows = find_rows(network)
        read = {name: rows.parameter for name, rows in self._rows.items()}
        self._updated = self._trained | read  # what the optimizer has under each name
        self._optimizer = make_optimizer(network, config.weight_decay, read)

    def backward(self, loss: Tensor, last: bool) -> None:
        """See :class:`Strategy`."""
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's method is untyped

    def update(self, learning_rate: float) -> float:
        """See :class:`Strategy`."""
        for rows in self._rows.values():
            rows.collect()
            self._optimizer.state[rows.parameter] = rows.state
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:  # of a worker without rows, or an expert that no token chose
                parameter.grad = torch.zeros_like(parameter)
        all_sum(p.grad for p in parameters if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        for rows in self._rows.values():
            rows.write_back()
        return float(norm)

    def weights(self) -> dict[str, Tensor]:
        """See :class:`Strategy`."""
        return {name: p.detach().cpu() for name, p in self._trained.items()} if is_first() else {}

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """See :class:`Strategy`."""
        if not is_first():
            return {}
        state = {name: self._optimizer.state[p] for name, p in self._updated.items()}
        state |= {name: rows.whole_state() for name, rows in self._rows.items()}
        return {name: {key: value.detach().cpu() for key, value in found.items()} for name, found in state.items()}

    def load_optimizer_state(self, state: OptimizerState) -> None:
        """See :class:`Strategy`."""
        for name, rows in self._rows.items():
            if name in state:
                rows.load(state[name])
        names = {parameter: name for name, parameter in self._updated.items()}
        order = [names[p] for group in self._optimizer.param_groups for p in group["params"]]
        groups = self._optimizer.state_dict()["param_groups"]
        by_position = {position: dict(state[name]) for position, name in enumerate(order) if name in state}
        self._optimizer.load_state_dict({"state": by_position, "param_groups": groups})

    @contextmanager
    def evaluating(self) -> Iterator[Network]:
        """See :class:`Strategy`."""
        yield self.network


def make_strategy(network: Network, config: TrainConfig) -> Strategy:
    """The strategy ``config.strategy`` over a network whose weights are in place; ``auto`` has been resolved before."""
    if config.strategy.startswith("deepspeed"):
        from rayclf.training.zero import Zero

        return Zero(network, config)
    return Replicated(network, config)


def is_first() -> bool:
    """Whether this is worker 0, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


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
