from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPACES, TEXTS, Made, train, write_backbone

from rayclf.errors import BackboneError, ConfigError
from rayclf.labels import ProblemType
from rayclf.model.backbone import load_network
from rayclf.model.network import Network
from rayclf.model.quantize import dequantized, quantize_linears, round_linears

Make = Callable[..., Made]
Backbone = Callable[[str], Path]
SPACE = SPACES[ProblemType.MULTICLASS]
LAYERS = {"nf4": bnb.nn.Linear4bit, "int8": bnb.nn.Linear8bitLt}
CPU = torch.device("cpu")


@pytest.fixture(params=["nf4", "int8"])
def quantization(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


def linears(network: Network) -> dict[str, torch.nn.Linear]:
    return {name: m for name, m in network.backbone.named_modules() if isinstance(m, torch.nn.Linear)}


def with_gradients(made: Made) -> set[str]:
    made.network.zero_grad(set_to_none=True)
    made.network.train()(*batch()).square().sum().backward()
    return {name for name, p in made.network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_linear_layers_of_the_backbone_alone_are_quantised(
    backbone: Backbone, architecture: str, quantization: Any
) -> None:
    network = load_network(backbone(architecture), SPACE, quantization=quantization)
    plain = load_network(backbone(architecture), SPACE)
    assert linears(network).keys() == linears(plain).keys()
    assert all(isinstance(layer, LAYERS[quantization]) for layer in linears(network).values())
    assert {layer.weight.dtype for layer in linears(network).values()} == {
        torch.uint8 if quantization == "nf4" else torch.int8
    }
    if quantization == "nf4":
        for layer in linears(network).values():
            state = layer.weight.quant_state  # type: ignore[union-attr]
            assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
    assert not any(isinstance(m, tuple(LAYERS.values())) for m in network.head.modules())
    assert {p.dtype for p in network.head.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(network.head.parameters(), plain.head.parameters(), strict=True))
    assert not any(p.requires_grad for p in network.backbone.parameters())
    assert not network.training


def test_quantised_weights_are_near_the_plain_ones(backbone: Backbone, architecture: str, quantization: Any) -> None:
    network = load_network(backbone(architecture), SPACE, quantization=quantization)
    for name, layer in linears(load_network(backbone(architecture), SPACE)).items():
        error = (dequantized(linears(network)[name]) - layer.weight).abs().max() / layer.weight.abs().max()
        assert 0 < error < (0.2 if quantization == "nf4" else 0.005), name


def test_logits_are_those_of_the_dequantised_weights(backbone: Backbone, architecture: str, quantization: Any) -> None:
    network = load_network(backbone(architecture), SPACE, quantization=quantization, seed=3)
    floats = load_network(backbone(architecture), SPACE, quantization=quantization, seed=3, dequantize=True)
    for name, layer in linears(floats).items():
        assert type(layer) is torch.nn.Linear
        assert torch.equal(layer.weight, dequantized(linears(network)[name]))
    for training in (False, True):  # bitsandbytes' own 8-bit layer computes another function in each
        with torch.no_grad():
            one, other = network.train(training)(*batch()), floats.train(training)(*batch())
        if architecture not in ("bert", "roberta", "distilbert") or not training:  # those have dropout
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_training_reaches_every_adapter_and_evaluation_changes_nothing(
    make: Make, architecture: str, quantization: str
) -> None:
    """On some CPUs an evaluation would repack 4-bit weights, and no adapter would get a gradient from then on."""
    made = make(architecture, tuning="qlora", quantization=quantization)
    before = with_gradients(made)
    assert before == {name for name, p in made.network.named_parameters() if p.requires_grad}
    with torch.no_grad():
        logits = made.network.eval()(*batch())
    assert with_gradients(made) == before
    with torch.no_grad():
        assert torch.equal(made.network.eval()(*batch()), logits)
    flags = [m.support_avx512bf16_for_cpu for m in made.network.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert not any(flags)
    assert bool(flags) == (quantization == "nf4")


def test_gradients_are_those_through_the_dequantised_weights(make: Make, quantization: str) -> None:
    made = make("llama", tuning="qlora", quantization=quantization)
    with_gradients(made)
    floats = make("llama", tuning="lora", moved=False)
    round_linears(floats.network.backbone, quantization, torch.float32)  # type: ignore[arg-type]
    rounded = {name for name, m in floats.network.named_modules() if type(m) is torch.nn.Linear and "base_" in name}
    assert rounded
    # The adapters' own layers are linear ones too: give them the weights of the other network.
    state = {name: p for name, p in made.network.named_parameters() if p.requires_grad}
    floats.network.load_state_dict(state, strict=False)
    with_gradients(floats)
    grads = dict(floats.network.named_parameters())
    for name, parameter in state.items():
        torch.testing.assert_close(parameter.grad, grads[name].grad, atol=1e-3, rtol=1e-3)


def test_quantised_weights_do_not_depend_on_the_runs_precision(backbone: Backbone, quantization: Any) -> None:
    """An adapter trained in bfloat16 must find the same weights under it in float32."""
    one = load_network(backbone("llama"), SPACE, quantization=quantization)
    other = load_network(
        backbone("llama"), SPACE, quantization=quantization, dtype=torch.bfloat16, compute_dtype=torch.bfloat16
    )
    for name, layer in linears(one).items():
        assert torch.equal(layer.weight.data, linears(other)[name].weight.data)
        assert torch.equal(dequantized(layer), dequantized(linears(other)[name]))


def test_other_weights_have_the_dtype_asked_for(backbone: Backbone, architecture: str, quantization: Any) -> None:
    network = load_network(
        backbone(architecture), SPACE, quantization=quantization, dtype=torch.bfloat16, compute_dtype=torch.bfloat16
    )
    assert {p.dtype for p in network.backbone.parameters() if p.is_floating_point()} == {torch.bfloat16}
    assert {p.dtype for p in network.head.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = network(*batch())
        exact = load_network(backbone(architecture), SPACE, quantization=quantization)(*batch())
    assert logits.dtype == torch.float32
    assert 0 < (logits - exact).abs().max() < 0.3


def test_bfloat16_training_learns(make: Make, quantization: str) -> None:
    made = make("llama", tuning="qlora", quantization=quantization, dtype=torch.bfloat16, moved=False)
    codes = {name: layer.weight.data.clone() for name, layer in linears(made.network).items() if "base_layer" in name}
    assert {p.dtype for p in made.network.parameters() if p.requires_grad} == {torch.float32}
    rows = np.arange(len(TEXTS))
    before = made.classifier.probabilities(TEXTS)[rows, rows % 3].mean()
    with torch.autocast("cpu", torch.bfloat16):
        train(made)
    assert made.classifier.probabilities(TEXTS)[rows, rows % 3].mean() > before + 0.1
    assert codes
    assert all(torch.equal(linears(made.network)[name].weight.data, tensor) for name, tensor in codes.items())


def test_a_moved_copy_computes_the_same(backbone: Backbone, quantization: Any) -> None:
    network = load_network(backbone("llama"), SPACE, quantization=quantization)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(network).to("cpu")(*batch()), network(*batch()))


def test_a_shared_layer_stays_shared(quantization: Any) -> None:
    shared = torch.nn.Linear(8, 8)
    module = torch.nn.ModuleDict({"a": shared, "b": torch.nn.Sequential(shared), "c": torch.nn.Linear(8, 8)})
    quantize_linears(module, quantization, torch.float32, CPU)
    assert module["a"] is module["b"][0]  # type: ignore[index]
    assert module["a"] is not module["c"]


@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None)
def test_layers_of_any_shape(rows: int, columns: int, scale: float, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    plain = torch.nn.Linear(2 * columns, rows, bias=bias)
    plain.weight.data *= scale
    x = torch.randn(2, 3, 2 * columns, requires_grad=True)
    for kind in LAYERS:
        module = torch.nn.Sequential(copy.deepcopy(plain))
        floats = copy.deepcopy(module)
        quantize_linears(module, kind, torch.float32, CPU)  # type: ignore[arg-type]
        round_linears(floats, kind, torch.float32)  # type: ignore[arg-type]
        assert floats[0].weight.shape == plain.weight.shape
        torch.testing.assert_close(module(x), floats(x), atol=1e-4 * scale, rtol=1e-4)
        (one,) = torch.autograd.grad(module(x).sum(), x)
        (other,) = torch.autograd.grad(floats(x).sum(), x)
        torch.testing.assert_close(one, other, atol=1e-4 * scale, rtol=1e-4)


def test_backbone_without_linear_layers_is_refused(tmp_path: Path, quantization: Any) -> None:
    with pytest.raises(BackboneError, match=r"no linear layers to quantise; choose model\.method: lora"):
        quantize_linears(torch.nn.Sequential(torch.nn.Embedding(2, 2)), quantization, torch.float32, CPU)


def test_lacking_weights_are_never_made_up(tmp_path: Path, quantization: Any) -> None:
    import safetensors.torch

    file = write_backbone(tmp_path, "llama") / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    del tensors[max(tensors)]
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="its files lack 1 weights of the backbone"):
        load_network(tmp_path, SPACE, quantization=quantization)


def test_missing_bitsandbytes_is_named(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError) as caught:
        load_network(backbone("llama"), SPACE, quantization="nf4")
    assert str(caught.value) == "model.method: qlora needs bitsandbytes; install rayclf[qlora]"
    load_network(backbone("llama"), SPACE)


def test_loading_without_quantisation_imports_no_bitsandbytes() -> None:
    code = "import sys, rayclf.model.quantize; assert 'bitsandbytes' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
