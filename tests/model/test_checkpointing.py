from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import Made

from rayclf.config import LoraConfig
from rayclf.errors import ConfigError
from rayclf.model.checkpointing import enable_checkpointing

Make = Callable[..., Made]


@pytest.fixture(params=["full", "lora", "qlora"])
def tuning(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def gradients(made: Made) -> tuple[dict[str, torch.Tensor], int]:
    """The gradients of a step with dropout, and how many linear layers were run again in the backward pass."""
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    for module in made.network.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    torch.manual_seed(5)
    loss = made.network.train()(ids, torch.ones_like(ids)).square().sum()
    forward, calls = calls, 0
    loss.backward()
    assert forward > 0
    return {name: p.grad for name, p in made.network.named_parameters() if p.grad is not None}, calls


def test_gradients_are_equal(make: Make, architecture: str, tuning: str) -> None:
    lora = LoraConfig(r=4, alpha=16, dropout=0.2)
    made = make(architecture, tuning=tuning, lora=lora)
    made.network._short_last = False  # as with checkpointing, so that dropout draws the same
    expected, again = gradients(made)
    assert again == 0
    made = make(architecture, tuning=tuning, lora=lora)
    enable_checkpointing(made.network)
    got, again = gradients(made)
    assert again > 0
    assert got.keys() == expected.keys() == {name for name, p in made.network.named_parameters() if p.requires_grad}
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-5)


def test_backbone_that_cannot_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("llama")
    monkeypatch.setattr(type(made.network.backbone), "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"^train\.gradient_checkpointing: a backbone of type 'llama' has none"):
        enable_checkpointing(made.network)
