"""The head alone, before the first step: fitted to what the untouched backbone makes of some training rows.

A head of random weights sends the backbone gradients of random directions, and the backbone gives up for them some of
what pretraining made of it. So the head comes first and the backbone after it (LP-FT, arXiv:2202.10054). The backbone
reads each of these rows once; the passes over its pooled states cost next to nothing. They are few: a head that knows
the rows by heart leaves the backbone nothing to learn from them (docs/benchmarks.md has the figures).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rayclf.data.order import Rows
from rayclf.data.tokens import Ids, TokenBatch
from rayclf.model.adapters import without_adapters
from rayclf.model.network import Network
from rayclf.model.packing import make_inputs, plan_batches
from rayclf.training.losses import TrainingLoss
from rayclf.training.strategies import all_sum, is_first

_PASSES, _BATCH, _PEAK = 5, 128, 1e-3


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """What the head gets of rows: pooled states ``[n, width]``, float32, and their targets ``[n, K]``."""

    states: Tensor
    targets: Tensor

    @classmethod
    @torch.no_grad()
    def read(
        cls,
        network: Network,
        batches: Iterator[TokenBatch],
        numbers: Rows,
        *,
        labels: int,
        max_tokens: int,
        pad_token_id: int,
        packed: bool,
        bf16: bool,
    ) -> HeadInputs:
        """Run the backbone over this worker's share of rows ``numbers [n]``; every worker gets those of all.

        Adapters are left out: as they begin they add nothing. Rows of like length go together, whatever their step.
        """
        device, order = network.device, np.argsort(numbers)
        linear = next(module for module in network.head.modules() if isinstance(module, nn.Linear))
        found = cls(
            torch.zeros((len(numbers), linear.in_features), device=device),
            torch.zeros((len(numbers), labels), device=device),
        )
        passed: list[Tensor] = []
        hook = network.head.register_forward_pre_hook(lambda _, inputs: passed.append(inputs[0].float()))
        ids: list[Ids] = []
        places: list[Rows] = []
        for batch in batches:
            places.append(order[np.searchsorted(numbers, batch.rows, sorter=order)])
            found.targets[torch.from_numpy(places[-1]).to(device)] = torch.from_numpy(batch.targets).to(device)
            ids += batch.input_ids
        place = torch.from_numpy(np.concatenate(places)).to(device)
        network.eval()
        low = torch.autocast(device.type, torch.bfloat16, enabled=bf16)  # one for all: it casts each weight once
        try:
            with low, without_adapters(network):
                for rows in plan_batches([len(row) for row in ids], max_tokens, packed):
                    inputs = make_inputs([ids[row] for row in rows], pad_token_id, packed)
                    network(**inputs.to(device).arguments())
                    found.states[place[rows]] = passed.pop()
        finally:
            hook.remove()
            network.train()
        all_sum([found.states, found.targets])
        return found

    def fit(self, network: Network, loss: TrainingLoss, seed: int) -> tuple[float, float]:
        """Train the head on them, on worker 0, and give it to all; its mean loss before and after."""
        head, draw = network.head, torch.Generator().manual_seed(seed)
        before = self._loss(network, loss)
        if is_first():
            optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.01)
            steps, step = _PASSES * -(-len(self.states) // _BATCH), 0
            for _ in range(_PASSES):
                mixed = torch.randperm(len(self.states), generator=draw).to(self.states.device)
                for rows in torch.split(mixed, _BATCH):
                    optimizer.param_groups[0]["lr"] = _PEAK * (1 - step / steps)
                    targets, step = self.targets[rows], step + 1
                    mean = loss.total(head(self.states[rows]), targets) / (loss.terms(targets) or 1.0)
                    mean.backward()  # type: ignore[no-untyped-call]  # PyTorch's method is untyped
                    optimizer.step()
                    optimizer.zero_grad()
        weights = [parameter.detach() for parameter in head.parameters()]
        if not is_first():
            for weight in weights:
                weight.zero_()
        all_sum(weights)
        return before, self._loss(network, loss)

    @torch.no_grad()
    def _loss(self, network: Network, loss: TrainingLoss) -> float:
        terms = loss.terms(self.targets)
        parts = zip(torch.split(self.states, _BATCH), torch.split(self.targets, _BATCH), strict=True)
        return sum(float(loss.total(network.head(states), targets)) for states, targets in parts) / (terms or 1.0)
