"""Steps of whole 8 B- and 4 B-shaped backbones in bf16: they learn, leave the backbone alone, and take the memory that
``rayclf plan`` says."""

from __future__ import annotations

import gc
import math

import pytest
import torch
from random_network import (
    DEVICE,
    ON_CPU,
    SIZES,
    Tuning,
    free_memory,
    one_step,
    plan_case,
    random_batch,
    random_network,
    text_lengths,
)

from rayclf.config import TrainConfig
from rayclf.model.checkpointing import enable_checkpointing
from rayclf.model.network import Network
from rayclf.training.cost.memory import Case, estimate_memory
from rayclf.training.strategies import Replicated

pytestmark = pytest.mark.filterwarnings("default")  # drivers and kernels warn of what is not ours to mend

LENGTH = 256
TUNINGS: tuple[Tuning, ...] = ("lora", "nf4")


def fitting_case(size: str, tuning: Tuning, checkpointing: bool) -> Case:
    """Two full micro-batches a step, of as many tokens as the device has room for; skips where there is none."""
    for tokens in (8192, 4096, 2048, 1024):
        rows = 2 * tokens // LENGTH
        case = plan_case(SIZES[size], tuning, rows=rows, length=LENGTH, tokens=tokens, checkpointing=checkpointing)
        if estimate_memory(case).total < 0.95 * free_memory():
            return case
    pytest.skip(f"{size} {tuning} does not fit into {free_memory() / 2**30:.0f} GiB")


def frozen_sums(network: Network) -> dict[str, float]:
    return {
        name: float(parameter.detach().flatten()[:4096].double().sum())
        for name, parameter in network.named_parameters()
        if not parameter.requires_grad
    }


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("size", SIZES)
def test_steps_learn_within_the_planned_memory(size: str, tuning: Tuning, checkpointing: bool) -> None:
    case = fitting_case(size, tuning, checkpointing)
    base = 0 if ON_CPU else torch.cuda.memory_allocated(DEVICE)
    network = random_network(SIZES[size], tuning)
    if checkpointing:
        enable_checkpointing(network)
    gc.collect()
    if not ON_CPU:
        torch.cuda.reset_peak_memory_stats(DEVICE)  # quantising random weights holds them all, which files do not
    before = frozen_sums(network)
    start = {name: p.detach().cpu().clone() for name, p in network.named_parameters() if p.requires_grad}
    strategy = Replicated(network, TrainConfig())
    full = random_batch(SIZES[size], [LENGTH] * case.config.train.batch_size)
    results = [one_step(strategy, full, case.tokens, packed=False) for _ in range(4)]
    assert [result.tokens for result in results] == [2 * case.tokens] * 4
    assert all(math.isfinite(result.loss) and 0 < result.grad_norm < math.inf for result in results)
    assert results[-1].loss < results[0].loss
    weights = strategy.weights()
    assert weights.keys() == start.keys()
    unmoved = [name for name, tensor in weights.items() if torch.equal(tensor, start[name])]
    assert not unmoved
    assert frozen_sums(network) == before
    assert {p.dtype for p in network.parameters() if p.requires_grad} == {torch.float32}
    if not ON_CPU:
        found = estimate_memory(case)
        estimated, measured = found.total - found.reserve, torch.cuda.max_memory_allocated(DEVICE) - base
        ratio = f"{estimated / 2**30:.2f} GiB estimated, {measured / 2**30:.2f} GiB measured"
        assert 0.8 < estimated / measured < 1.2, ratio


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("size", SIZES)
def test_packed_steps_take_no_more_than_planned(size: str, tuning: Tuning) -> None:
    case = fitting_case(size, tuning, False)
    base = 0 if ON_CPU else torch.cuda.memory_allocated(DEVICE)
    network = random_network(SIZES[size], tuning)
    gc.collect()
    if not ON_CPU:
        torch.cuda.reset_peak_memory_stats(DEVICE)
    strategy = Replicated(network, TrainConfig())
    texts = random_batch(SIZES[size], text_lengths(case.config.train.batch_size, longest=LENGTH))
    results = [one_step(strategy, texts, case.tokens, packed=True) for _ in range(4)]
    assert results[-1].loss < results[0].loss
    if not ON_CPU:
        assert torch.cuda.max_memory_allocated(DEVICE) - base < 1.2 * estimate_memory(case).total
