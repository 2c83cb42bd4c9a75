"""The rows that were read, updated alone, end as those of AdamW over the whole embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rayclf.config import TrainConfig
from rayclf.training.embedding_rows import find_rows
from rayclf.training.optimizer import make_optimizer
from rayclf.training.strategies import Replicated

SIZE, WIDTH, PAD = 12, 3, 7
steps_of_batches = st.lists(
    st.lists(st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=5), max_size=3), min_size=1, max_size=8
)


class Reader(nn.Module):
    """A word embedding, and a weight that decides what a token's gradient is; ``whole`` reads the matrix besides."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.words, self.out = nn.Embedding(SIZE, WIDTH, padding_idx=PAD), nn.Linear(WIDTH, 2)
        self.whole = whole

    def forward(self, tokens: list[int]) -> torch.Tensor:
        value = self.out(self.words(torch.tensor(tokens))).tanh().sum()
        return value + self.words.weight.square().sum() if self.whole else value


class Dense:
    """The same over the whole matrix, by PyTorch alone."""

    def __init__(self, network: Reader, config: TrainConfig) -> None:
        self.network, self.most = network, config.max_grad_norm
        self.optimizer = make_optimizer(network, config.weight_decay)

    def step(self, batches: list[list[int]], rate: float) -> float:
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for tokens in batches:
            self.network(tokens).backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.most)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return float(norm)


def step(strategy: Replicated, batches: list[list[int]], rate: float) -> float:
    for number, tokens in enumerate(batches, start=1):
        strategy.backward(strategy.network(tokens), number == len(batches))
    return strategy.update(rate)


def close(mine: Any, wanted: Any) -> None:
    torch.testing.assert_close(mine, wanted, atol=1e-7, rtol=2e-6)


@settings(deadline=None, derandomize=True)
@given(steps_of_batches, st.sampled_from([0.0, 0.3]), st.booleans(), st.integers(0, 8))
def test_every_step_is_that_of_the_whole_matrix(
    steps: list[list[list[int]]], decay: float, whole: bool, interrupted: int
) -> None:
    """Also with padding, steps without rows, and an interruption after which another process goes on."""
    config = TrainConfig(weight_decay=decay, max_grad_norm=0.5)
    dense, strategy = Dense(Reader(whole), config), Replicated(Reader(whole), config)
    for number, batches in enumerate(steps):
        rate = 0.1 / (number + 1)
        assert step(strategy, batches, rate) == pytest.approx(dense.step(batches, rate), rel=1e-5)
        if number == interrupted:
            weights, state = strategy.weights(), strategy.optimizer_state()
            strategy = Replicated(Reader(whole), config)
            strategy.network.load_state_dict(weights)
            strategy.load_optimizer_state(state)
    close(strategy.weights(), dict(dense.network.named_parameters()))
    close(dict(strategy.network.state_dict()), dict(dense.network.state_dict()))
    for name, parameter in dense.network.named_parameters():
        close(strategy.optimizer_state()[name], dict(dense.optimizer.state[parameter]))


def test_the_optimizer_has_no_row_that_no_text_had() -> None:
    strategy = Replicated(Reader(), TrainConfig())
    optimizer = strategy._optimizer
    held = []
    for batches in ([[1, 2, 1]], [[2, PAD], [9]], [[1]]):
        step(strategy, batches, 0.1)
        held += [len(p) for p in optimizer.param_groups[1]["params"] if p.shape[1:] == (WIDTH,)]
    assert held == [2, 3, 3]  # padding has no gradient
    words = dict(strategy.network.named_parameters())["words.weight"]
    moved = (words != Reader().words.weight).any(dim=1).nonzero()[:, 0]
    assert moved.tolist() == [1, 2, 9]


def test_going_on_asks_no_other_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have the same state; what they did together in an order of their own would break them."""
    strategy = Replicated(Reader(), TrainConfig())
    step(strategy, [[1, 5]], 0.1)
    state = strategy.optimizer_state()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", None)
    Replicated(Reader(), TrainConfig()).load_optimizer_state(state)


def test_only_plain_embeddings_that_are_trained_are_taken() -> None:
    class Scaled(nn.Embedding):
        pass

    network = nn.ModuleDict({
        "plain": nn.Embedding(4, 2), "scaled": Scaled(4, 2), "frozen": nn.Embedding(4, 2),
        "bounded": nn.Embedding(4, 2, max_norm=1.0), "by_count": nn.Embedding(4, 2, scale_grad_by_freq=True),
        "away": nn.Embedding(4, 2, device="meta"), "shared": nn.Embedding(4, 2), "linear": nn.Linear(2, 4),
    })  # fmt: skip
    network["frozen"].requires_grad_(False)
    network["shared"].weight = network["plain"].weight
    assert list(find_rows(network)) == ["plain.weight"]
    assert [name for name, part in network.named_children() if getattr(part, "sparse", False)] == ["plain"]
