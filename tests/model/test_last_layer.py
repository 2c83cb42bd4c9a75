"""The last layer over pooled tokens alone against the whole of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from networks import CONFIGS, LENGTHS, logits, make_network, random_rows
from test_varlen import reference_kernel
from torch import Tensor, nn

from rayclf.config import LoraConfig
from rayclf.model import last_layer, varlen
from rayclf.model.adapters import add_lora
from rayclf.model.checkpointing import enable_checkpointing
from rayclf.model.network import Network
from rayclf.model.varlen import PACKING_TYPES


def full(network: Network, rows: Any) -> Tensor:
    """The padded forward that reads all of every layer."""
    with whole(network):
        return logits(network, rows, False).detach()


@contextmanager
def whole(network: Network) -> Iterator[None]:
    """All of every layer is read in this block."""
    network._short_last, before = False, network._short_last
    try:
        yield
    finally:
        network._short_last = before


def gradients(network: Network, rows: Any, packed: bool) -> dict[str, Tensor]:
    """Of the sum of squared logits."""
    network.zero_grad()
    logits(network, rows, packed).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def states_seen(network: Network, rows: Any, packed: bool) -> dict[str, int]:
    """How many states each linear layer of the backbone saw in one inference forward."""
    seen: dict[str, int] = {}
    handles = []
    for name, module in network.backbone.named_modules():
        if isinstance(module, nn.Linear):
            hook = lambda m, inputs, out, n=name: seen.__setitem__(n, inputs[0].shape[:-1].numel())  # noqa: E731
            handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        logits(network, rows, packed)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", sorted(PACKING_TYPES))
def test_the_logits_are_those_of_the_whole_layer(name: str, lora: bool, packed: bool) -> None:
    network, rows = make_network(name).eval(), random_rows(LENGTHS)
    if lora:
        add_lora(network, LoraConfig(r=4, alpha=16, target_modules="all-linear"))
        for parameter_name, parameter in network.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter.data, std=0.1)
        network.eval()
    expected = full(network, rows)
    assert expected.std(dim=0).min() > 0.02
    with torch.no_grad():
        got = logits(network, rows, packed)
        alone = torch.cat([logits(network, [row], packed) for row in rows])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", sorted(PACKING_TYPES))
def test_the_gradients_are_those_of_the_whole_layer(name: str, lora: bool, packed: bool) -> None:
    network, rows = make_network(name), random_rows(LENGTHS)
    if lora:
        add_lora(network, LoraConfig(r=4, alpha=16, target_modules="all-linear"))
        network.eval()
    got = gradients(network, rows, packed)
    with whole(network):
        expected = gradients(network, rows, packed)
    assert got.keys() == expected.keys()
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 0.1
    for parameter_name, gradient in expected.items():
        scale = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(got[parameter_name] / scale, gradient / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_checkpointing_runs_the_whole_layer_again(name: str, packed: bool) -> None:
    network, rows = make_network(name), random_rows(LENGTHS)
    expected = gradients(network, rows, packed)
    enable_checkpointing(network.train())
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for parameter_name, gradient in gradients(network, rows, packed).items():
        torch.testing.assert_close(gradient, expected[parameter_name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", sorted(PACKING_TYPES))
def test_the_last_mlp_sees_one_token_a_row(name: str, packed: bool) -> None:
    network, rows = make_network(name).eval(), random_rows(LENGTHS)
    tokens = sum(LENGTHS) if packed else len(LENGTHS) * max(LENGTHS)
    seen = states_seen(network, rows, packed)
    mlp = [n for n in seen if any(word in n for word in ("mlp", "ffn", "intermediate", ".output.dense"))]
    last = [n for n in mlp if ".1." in n and "attention" not in n]
    first = [n for n in mlp if ".0." in n and "attention" not in n]
    assert last
    assert {seen[n] for n in last} == {len(LENGTHS)}
    assert {seen[n] for n in first} == {tokens}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("modernbert", {"global_attn_every_n_layers": 9, "classifier_pooling": "cls"}),
        ("mistral", {}),
        ("gemma3_text", {}),
    ],
)
def test_a_window_in_the_last_layer_is_the_pooled_tokens(name: str, fields: dict[str, Any], packed: bool) -> None:
    if name == "gemma3_text":
        fields = {"layer_types": ["full_attention", "sliding_attention"]}
    network, rows = make_network(name, **(CONFIGS.get(name, {}) | fields)).eval(), random_rows(LENGTHS)
    with torch.no_grad():
        torch.testing.assert_close(logits(network, rows, packed), full(network, rows), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert", "mistral", "modernbert"])
def test_the_kernel_gets_one_query_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = (
        make_network(name, **({"global_attn_every_n_layers": 1} if name == "modernbert" else {})).eval(),
        random_rows(LENGTHS),
    )
    asked = list[int]()

    def kernel(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked.append(len(query))
        return reference_kernel(query, *args, **kwargs)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(varlen, "_has_kernel", lambda query, value: True)
    with torch.no_grad():
        got = logits(network, rows, True)
    monkeypatch.undo()
    assert asked == [sum(LENGTHS), len(LENGTHS)]
    torch.testing.assert_close(got, full(network, rows), atol=1e-5, rtol=0)


def test_mean_pooling_and_own_attention_keep_the_whole_layer() -> None:
    rows = random_rows(LENGTHS, low=2)
    for network in (make_network("modernbert", classifier_pooling="mean").eval(), make_network("gpt_neo").eval()):
        assert set(states_seen(network, rows, False).values()) == {len(LENGTHS) * max(LENGTHS)}
        with torch.no_grad():
            torch.testing.assert_close(logits(network, rows, False), full(network, rows), atol=1e-5, rtol=0)


def test_parting_a_model_twice_puts_one_hook() -> None:
    network = make_network("llama")
    assert last_layer.install(network.backbone)
    assert len(network.backbone.layers[-1]._forward_pre_hooks) == 1  # type: ignore[union-attr, index]


def test_a_backbone_whose_layers_are_not_found_is_left_alone() -> None:
    assert not last_layer.install(nn.Linear(2, 2))
