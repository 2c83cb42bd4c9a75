from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from networks import make_network
from tiny import TEXTS, Made
from transformers import LlamaConfig

from rayclf.data.tokens import Ids
from rayclf.errors import ResourceError
from rayclf.model.network import Network
from rayclf.model.runtime import budget
from rayclf.model.runtime.pytorch import TorchRuntime

Make = Callable[..., Made]


def rows_behind(prompt: int, count: int = 40) -> list[Ids]:
    """Rows of several lengths behind a prompt of ``prompt`` tokens."""
    generator = np.random.default_rng(1)
    begin = generator.integers(2, 300, prompt)
    rests = [generator.integers(2, 300, generator.integers(1, 25)) for _ in range(count)]
    return [np.concatenate([begin, rest]).astype(np.int32) for rest in rests]


def limited(network: Network, most: int, seen: list[int]) -> Network:
    """The network on a device that holds ``most`` tokens."""

    def check(module: Any, args: Any, kwargs: Any) -> None:
        size = kwargs["input_ids"].numel()
        if size > most:
            raise torch.OutOfMemoryError("no more")
        seen.append(size)

    network.register_forward_pre_hook(check, with_kwargs=True)
    return network


@pytest.mark.parametrize("batching", ["padded", "packed"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_shared_prompt_is_computed_once(name: str, batching: Any) -> None:
    network, rows = make_network(name), rows_behind(30)
    alone = np.concatenate([TorchRuntime(network, 1, batching=batching)([row]) for row in rows])
    tokens = list[int]()
    network.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: tokens.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    got = TorchRuntime(network, 1, batching=batching, max_tokens=100)(rows)
    np.testing.assert_allclose(got, alone, atol=1e-5)
    assert tokens[0] == 30
    assert sum(tokens) < sum(map(len, rows)), "most of the 40 x 30 tokens of the prompt are not computed"


def test_few_rows_are_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("llama")
    monkeypatch.setattr(network, "read_prefix", None)
    TorchRuntime(network, 1)(rows_behind(30, count=3))


@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_batch_out_of_memory_is_halved_and_logged_once(batching: Any, caplog: pytest.LogCaptureFixture) -> None:
    rows = rows_behind(0)
    expected = TorchRuntime(make_network("bert"), 1, batching=batching)(rows)
    seen = list[int]()
    runtime = TorchRuntime(limited(make_network("bert"), 60, seen), 1, batching=batching, max_tokens=1000)
    with caplog.at_level(logging.WARNING, "rayclf"):
        got = runtime(rows)
        assert 24 < runtime.max_tokens <= 60
        found = len(seen)
        np.testing.assert_allclose(runtime(rows), got, atol=1e-6)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert len(seen) >= 2 * found - 1, "the lowered budget holds from call to call"
    (record,) = caplog.records
    assert record.name == "rayclf"
    assert "out of memory" in record.getMessage()


def test_a_row_that_does_not_fit_alone_is_refused_in_one_line() -> None:
    runtime = TorchRuntime(limited(make_network("bert"), 10, []), 1)
    with pytest.raises(ResourceError, match=r"^a row of \d+ tokens alone is out of .*--precision.*--max-tokens$"):
        runtime(rows_behind(0))
    assert runtime(rows_behind(0)[:0]).shape == (0, 3)


def test_the_budget_is_that_of_the_device(make: Make) -> None:
    made = make("llama")
    runtime = TorchRuntime(made.network, 1)
    assert runtime.max_tokens == budget.CPU_TOKENS
    assert TorchRuntime(made.network, 1, max_tokens=77).max_tokens == 77
    small, large = (LlamaConfig(hidden_size=width, intermediate_size=4 * width) for width in (512, 8192))
    assert budget.tokens_for(small, 2**34) == budget.GPU_TOKENS
    assert 1024 < budget.tokens_for(large, 2**34) < budget.GPU_TOKENS
    assert budget.tokens_for(large, 0) == 1024


def test_the_mode_and_the_gradients_of_training_are_left_as_they_were(make: Make, architecture: str) -> None:
    made = make(architecture)
    made.network.train()
    made.classifier.logits(TEXTS)
    assert made.network.training
    assert torch.is_grad_enabled()
    made.network.eval()
