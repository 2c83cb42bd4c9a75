"""QLoRA on CUDA: the quantised weights are the floats they stand for, and evaluation leaves training alone."""

from __future__ import annotations

import pytest
import torch
from random_network import DEVICE, ON_CPU, SIZES, Tuning, move_trained, one_step, random_batch, random_network, short
from torch import Tensor

from rayclf.config import TrainConfig
from rayclf.model.network import Network
from rayclf.model.packing import make_inputs
from rayclf.model.quantize import dequantized
from rayclf.training.strategies import Replicated

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.filterwarnings("default")  # drivers and kernels warn of what is not ours to mend

TUNINGS: tuple[Tuning, ...] = ("nf4", "int8")
LAYERS = ("Nf4Linear", "Int8Linear")


def evaluate(network: Network, rows: list[Tensor]) -> None:
    """As the engine does: without gradients, in evaluation mode; also a row of one token, which has its own kernel."""
    network.eval()
    with torch.no_grad(), torch.autocast(DEVICE.type, torch.bfloat16):
        for given in (rows, [rows[0][:1]]):
            for packed in (False, True):
                assert network(**make_inputs(given, 0, packed).to(DEVICE).arguments()).isfinite().all()
    network.train()


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("name", SIZES)
def test_evaluation_does_not_stop_the_gradients(name: str, tuning: Tuning) -> None:
    size = short(SIZES[name], 2, vocab_size=320)
    batch = random_batch(size, [40, 30, 20, 12, 9, 4])
    norms = []
    for evaluations in (0, 1):
        network = random_network(size, tuning)
        move_trained(network)
        strategy = Replicated(network, TrainConfig())
        start = {name: tensor.clone() for name, tensor in strategy.weights().items()}
        for _ in range(2):
            for _ in range(evaluations):
                evaluate(network, batch.input_ids)
            result = one_step(strategy, batch, 4096, packed=True)
            assert 0 < result.grad_norm < float("inf")
        weights = strategy.weights()
        still = [name for name, tensor in weights.items() if torch.equal(tensor, start[name])]
        assert not still, "an adapter got no gradient"
        norms.append(result.grad_norm)
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_layer_multiplies_by_the_floats_it_stands_for(tuning: Tuning) -> None:
    """``dequantized`` is what a reloaded artifact is made of, so that it must be what the CUDA kernels multiply by."""
    network = random_network(short(SIZES["8b"], 1, vocab_size=320), tuning)
    layer = next(m for m in network.backbone.modules() if type(m).__name__ in LAYERS)
    assert layer.weight.dtype in (torch.uint8, torch.int8)
    assert layer.weight.device.type == DEVICE.type
    weight = dequantized(layer)
    torch.manual_seed(0)
    for rows in (1, 17):
        x = torch.randn(rows, weight.shape[1], device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        got = layer(x)
        (gradient,) = torch.autograd.grad(got.float().square().sum(), x)
        wanted = x.double() @ weight.double().T
        assert (got.double() - wanted).norm() < 0.01 * wanted.norm()
        theirs = 2 * wanted @ weight.double()
        assert (gradient.double() - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.skipif(ON_CPU, reason="peak memory is PyTorch's on CUDA")
@pytest.mark.parametrize("tuning", TUNINGS)
def test_quantised_weights_take_what_they_should(tuning: Tuning) -> None:
    before = torch.cuda.memory_allocated(DEVICE)
    network = random_network(short(SIZES["8b"], 2, vocab_size=320), tuning)
    linear = sum(m.in_features * m.out_features for m in network.backbone.modules() if type(m).__name__ in LAYERS)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    taken = torch.cuda.memory_allocated(DEVICE) - before - 4 * trained
    width = 0.516 if tuning == "nf4" else 1.0
    assert linear > 400e6
    assert taken == pytest.approx(width * linear, rel=0.03)
