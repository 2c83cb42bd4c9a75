"""Packing on CUDA's varlen attention: what padded rows give, to bf16, and nothing from one row to the next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from random_network import (
    DEVICE,
    ON_CPU,
    PAD,
    SIZES,
    SPACE,
    move_trained,
    random_batch,
    random_network,
    short,
    text_lengths,
)
from torch import Tensor, nn

from rayclf.config import TrainConfig
from rayclf.data.tokens import TokenBatch
from rayclf.model import varlen
from rayclf.model.backbone import load_network
from rayclf.model.network import Network
from rayclf.model.packing import make_inputs
from rayclf.training.losses import TrainingLoss
from rayclf.training.step import micro_batches

pytestmark = pytest.mark.filterwarnings("default")  # drivers and kernels warn of what is not ours to mend

has_kernel = not ON_CPU and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
needs_kernel = pytest.mark.skipif(not has_kernel, reason="needs a GPU with varlen attention (Ampere or later)")


class Layer(nn.Module):
    """What an attention module tells its function."""

    def __init__(self, causal: bool, groups: int) -> None:
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = groups


def distance(one: Tensor, other: Tensor) -> float:
    """Of two tensors, relative to the second's size."""
    one, other = one.detach().double(), other.detach().double()
    return float((one - other).norm() / other.norm())


@needs_kernel
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("window", [None, 1, 7, 40])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_the_kernel_attends_as_sdpa_does(causal: bool, window: int | None, groups: int, width: int) -> None:
    rows = varlen.Rows((130, 64, 64, 33, 1), DEVICE)
    torch.manual_seed(0)
    draw = [torch.randn(1, heads, 292, width, device=DEVICE, dtype=torch.bfloat16) for heads in (8, 8 // groups)]
    states = [draw[0], draw[1], torch.randn_like(draw[1])]
    low = [state.clone().requires_grad_() for state in states]
    high = [state.double().requires_grad_() for state in states]  # no kernel in float64: SDPA over rows of equal length
    layer = Layer(causal, groups)
    with mock.patch.object(varlen, "_flash", wraps=varlen._flash) as kernel:
        got, _ = varlen.attend(layer, *low, None, sliding_window=window, rows=rows)
        wanted, _ = varlen.attend(layer, *high, None, sliding_window=window, rows=rows)
    assert kernel.call_count == 1
    assert got.shape == wanted.shape == (1, 292, 8, width)
    assert distance(got, wanted) < 0.01
    grads = (torch.autograd.grad(out.square().sum(), inputs) for out, inputs in ((got, low), (wanted, high)))
    for mine, theirs in zip(*grads, strict=True):
        assert (mine.double() - theirs).norm() < 0.02 * max(1.0, float(theirs.norm()))


def gradients(network: Network, batch: TokenBatch, *, packed: bool, bf16: bool) -> tuple[Tensor, Tensor]:
    """Logits of the rows in one micro-batch, and all gradients of its loss in one vector."""
    (micro,) = micro_batches(batch, 2**20, PAD, packed)
    network.zero_grad(set_to_none=True)
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
        logits = network(**micro.inputs.to(DEVICE).arguments())
    TrainingLoss(SPACE.problem_type, TrainConfig()).total(logits, micro.targets.to(DEVICE)).backward()
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return logits.detach(), torch.cat(found)


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", SIZES)
def test_packed_is_as_near_to_float32_as_padded(name: str, tuning: str) -> None:
    """No constant tells what bf16 may cost: the packed pass may be off by what the padded one is, and half more."""
    size = short(SIZES[name], 8 if tuning == "lora" else 2, vocab_size=320)
    network = random_network(size, tuning)  # type: ignore[arg-type]
    move_trained(network, 0.02 if tuning == "lora" else 0.0)
    batch = random_batch(size, text_lengths(24, longest=200))
    with mock.patch.object(varlen, "_flash", wraps=varlen._flash) as kernel:
        packed = gradients(network, batch, packed=True, bf16=True)
    assert kernel.call_count == (size.layers if has_kernel else 0)
    padded = gradients(network, batch, packed=False, bf16=True)
    exact = gradients(copy.deepcopy(network).float(), batch, packed=False, bf16=False)
    for what, one, other, truth in zip(("logits", "gradients"), packed, padded, exact, strict=True):
        assert torch.isfinite(one).all()
        assert distance(one, truth) < 1.5 * distance(other, truth) + 1e-3, what
        assert distance(other, truth) < 0.2, what  # else anything would pass


@pytest.mark.parametrize("name", SIZES)
def test_no_row_sees_its_neighbours(name: str) -> None:
    """To the bit: products of rows, and of tokens, are computed apart whatever lies beside them."""
    size = short(SIZES[name], 4, vocab_size=320)
    network = random_network(size, "lora").eval()
    move_trained(network)
    rows = random_batch(size, [70, 33, 33, 5, 1]).input_ids
    others = random_batch(size, [70, 33, 33, 5, 1], seed=1).input_ids
    mixed = [*others[:2], rows[2], *others[3:]]

    def logits(given: list[np.ndarray]) -> Tensor:  # type: ignore[type-arg]
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
            return network(**make_inputs(given, PAD, True).to(DEVICE).arguments())

    assert torch.equal(logits(mixed)[2], logits(rows)[2])
    assert not torch.equal(logits(mixed)[1], logits(rows)[1])


@pytest.mark.parametrize("name", SIZES)
def test_no_gradient_reaches_a_neighbour(name: str) -> None:
    size = short(SIZES[name], 4, vocab_size=320)
    network = random_network(size, "lora")
    move_trained(network)
    lengths = [70, 33, 33, 5, 1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0]

    embeddings = next(module for module in network.backbone.modules() if isinstance(module, nn.Embedding))
    embeddings.register_forward_hook(keep)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        inputs = make_inputs(random_batch(size, lengths).input_ids, PAD, True).to(DEVICE)
        logits = network(**inputs.arguments())
    (gradient,) = torch.autograd.grad(logits[2].square().sum(), seen[0])
    reached = gradient[0].abs().sum(-1).ne(0).split(lengths)
    assert [bool(part.any()) for part in reached] == [False, False, True, False, False]
    assert bool(reached[2].all())  # of its own tokens each


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "modernbert", "mistral", "phi"])
def test_other_architectures_pack_on_the_kernel(architecture: str, backbone: Callable[[str], Path]) -> None:
    """Encoders, sliding windows and biases too: tiny ones, loaded from files as training does."""
    network = load_network(backbone(architecture), SPACE, dropout=0.0, device=DEVICE).eval()
    rows = [ids % 300 for ids in random_batch(SIZES["8b"], [40, 17, 17, 9, 2, 1]).input_ids]

    def logits(*, packed: bool, bf16: bool) -> Tensor:
        with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            return network(**make_inputs(rows, 1, packed).to(DEVICE).arguments())

    with mock.patch.object(varlen, "_flash", wraps=varlen._flash) as kernel:
        packed = logits(packed=True, bf16=True)
    assert bool(kernel.call_count) == has_kernel
    truth = logits(packed=False, bf16=False)
    torch.testing.assert_close(logits(packed=True, bf16=False), truth, atol=1e-4, rtol=1e-4)
    assert distance(packed, truth) < 1.5 * distance(logits(packed=False, bf16=True), truth) + 1e-2
