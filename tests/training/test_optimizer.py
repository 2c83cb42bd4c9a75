from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rayclf.config import TrainConfig
from rayclf.training.optimizer import default_learning_rate, make_optimizer, rate_at


@given(st.integers(1, 300), st.floats(0, 0.9), st.floats(1e-6, 1.0))
def test_rate_rises_to_the_peak_and_falls_to_zero(steps: int, warmup: float, peak: float) -> None:
    config = TrainConfig(warmup=warmup)
    rates = [rate_at(step, steps, config, peak) for step in range(steps)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rate_at(steps, steps, config, peak) == 0


def test_rate_of_a_round_case() -> None:
    config = TrainConfig(warmup=0.1)
    rates = [rate_at(step, 100, config, 11.0) for step in range(101)]
    assert rates[:10] == pytest.approx(range(1, 11))
    assert rates[10] == 11.0 == max(rates)
    assert rates[55] == pytest.approx(5.5)
    assert rates[99] == pytest.approx(11 / 90)
    assert rates[100] == 0


def test_rate_without_warmup_starts_at_the_peak() -> None:
    assert [rate_at(step, 4, TrainConfig(warmup=0), 1.0) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_rate_of_a_single_step_is_not_zero() -> None:
    assert rate_at(0, 1, TrainConfig(), 1.0) > 0


def test_only_matrices_but_embeddings_decay_and_only_trainable_weights_are_there() -> None:
    network = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.Linear(3, 2))
    for parameter in network[3].parameters():
        parameter.requires_grad_(False)
    decayed, others = make_optimizer(network, 0.1).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {id(p) for p in decayed["params"]} == {id(network[2].weight)}
    apart = (network[0].weight, network[1].weight, network[1].bias, network[2].bias)
    assert {id(p) for p in others["params"]} == set(map(id, apart))
    assert decayed["lr"] == others["lr"] == 0


def test_decay_shrinks_matrices_alone() -> None:
    network = nn.Linear(3, 3)
    nn.init.ones_(network.bias)
    before = network.weight.detach().clone()
    optimizer = make_optimizer(network, 0.5)
    optimizer.param_groups[0]["lr"] = 0.1
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before * 0.95)
    assert torch.equal(network.bias.detach(), torch.ones(3))


def test_a_parameter_may_stand_for_another() -> None:
    network, other = nn.Linear(3, 2), nn.Parameter(torch.zeros(1, 2))
    decayed, others = make_optimizer(network, 0.1, {"weight": other}).param_groups
    assert [id(p) for p in decayed["params"]] == [id(other)]
    assert [id(p) for p in others["params"]] == [id(network.bias)]


def test_no_group_is_empty() -> None:
    assert len(make_optimizer(nn.Linear(2, 2, bias=False), 0.1).param_groups) == 1


def test_default_rate_falls_with_size_and_is_higher_for_adapters() -> None:
    full = [default_learning_rate("full", size) for size in (10**7, 10**8, 10**9)]
    assert full == sorted(full, reverse=True)
    assert default_learning_rate("head", 10**9) == 1e-3
    assert all(default_learning_rate("lora", size) == 2e-4 for size in (10**7, 10**9))
