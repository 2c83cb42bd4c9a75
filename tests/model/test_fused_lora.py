from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from tiny import Made, perturb

from rayclf.config import LoraConfig
from rayclf.model import fused_lora
from rayclf.model.fused_lora import FusedLinear, speed_up

Make = Callable[..., Made]


def fused(network: Any) -> list[FusedLinear]:
    return [layer for layer in network.modules() if isinstance(layer, FusedLinear)]


def as_peft(network: Any) -> Any:
    plain = copy.deepcopy(network)
    for layer in fused(plain):
        layer.__class__ = Linear
    return plain


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


def gradients(network: Any) -> dict[str, torch.Tensor]:
    network.zero_grad()
    logits = network(*batch())
    logits.square().sum().backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None} | {"logits": logits.detach()}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The inputs of fused layers, as they are computed."""
    seen: list[torch.Size] = []
    real = fused_lora._Adapted

    class Counted(real):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, *args: Any) -> torch.Tensor:
            seen.append(x.shape)
            return real.forward(ctx, x, *args)

    monkeypatch.setattr(fused_lora, "_Adapted", Counted)
    return seen


@pytest.mark.parametrize("rslora", [False, True])
def test_numbers_are_pefts(make: Make, architecture: str, calls: list[torch.Size], rslora: bool) -> None:
    network = make(architecture, tuning="lora", lora=LoraConfig(r=4, alpha=11, rslora=rslora)).network
    perturb(network)
    found, expected = gradients(network), gradients(as_peft(network))
    assert len(calls) >= len(fused(network)) > 0  # the last layer runs twice
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(grad, expected[name], atol=1e-5 * max(scale, 1.0), rtol=1e-4, msg=name)


@pytest.mark.parametrize("bias", [False, True])
def test_in_bfloat16_they_are_no_further_from_the_truth_than_pefts(calls: list[torch.Size], bias: bool) -> None:
    """Under autocast, as training computes; the truth is PEFT's layer in float64."""
    off: dict[str, list[float]] = {"fused": [], "peft": []}
    for seed in range(10):
        torch.manual_seed(seed)
        layer = Linear(
            torch.nn.Linear(48, 64, bias=bias).bfloat16(), "default", peft.LoraConfig(r=4, lora_alpha=11), 4, 11
        )
        layer.lora_B["default"].weight.data.normal_(std=0.1)
        layer.base_layer.requires_grad_(False)
        layer.lora_A.float()
        layer.lora_B.float()
        speed_up(torch.nn.ModuleList([layer]))
        x, towards = torch.randn(3, 7, 48).bfloat16(), torch.randn(3, 7, 64)

        def answers(layer: Any, x: torch.Tensor, low: bool, towards: torch.Tensor = towards) -> list[torch.Tensor]:
            x = x.clone().requires_grad_()
            layer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                out = layer(x)
            (out * towards.to(out.dtype)).sum().backward()
            weights = [part["default"].weight.grad for part in (layer.lora_A, layer.lora_B)]
            assert out.dtype == x.dtype
            assert not low or {weight.dtype for weight in weights} == {torch.float32}
            return [part.detach().double().clone() for part in (out, x.grad, *weights)]

        exact = answers(as_peft(torch.nn.ModuleList([layer]))[0].double(), x.double(), low=False)
        for how, one in (("fused", layer), ("peft", as_peft(torch.nn.ModuleList([layer]))[0])):
            found = answers(one, x, low=True)
            off[how] += [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
    assert len(calls) == 10
    assert max(off["fused"]) < 0.02
    assert sum(off["fused"]) < 1.02 * sum(off["peft"])


def test_evaluation_keeps_nothing_for_gradients(make: Make, calls: list[torch.Size]) -> None:
    network = make("bert", tuning="lora").network
    with torch.no_grad():
        found = network(*batch())
    assert calls
    assert not found.requires_grad
    torch.testing.assert_close(found, as_peft(network)(*batch()).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("how", ["dropout", "dora", "disabled", "merged", "trained weight", "types", "parted"])
def test_all_else_is_left_to_peft(make: Make, calls: list[torch.Size], how: str) -> None:
    options = {"dropout": {"dropout": 0.1}, "dora": {"dora": True}}.get(how, {})
    dtype = torch.bfloat16 if how == "types" else torch.float32
    network = make("bert", tuning="lora", dtype=dtype, lora=LoraConfig(r=4, **options)).network
    for layer in network.backbone.modules():
        if isinstance(layer, LoraLayer) and isinstance(layer, Linear):
            if how == "disabled":
                layer.enable_adapters(False)
            elif how == "merged":
                layer.merge()
            elif how == "trained weight":
                layer.base_layer.weight.requires_grad_(True)
            elif how == "parted":
                layer.base_layer.weight.ds_id = 0
    found = network(*batch())
    assert not calls
    torch.testing.assert_close(found, as_peft(network)(*batch()))
