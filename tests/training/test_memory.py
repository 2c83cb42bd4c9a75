"""The estimate of memory: measured peaks, sane figures for an 8 B backbone, and what each setting must do to it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayclf.config import Config
from rayclf.training.cost.devices import GIB
from rayclf.training.cost.estimate import flops_per_token
from rayclf.training.cost.memory import STRATEGIES, Case, estimate_memory, resolve_strategy, with_fields
from rayclf.training.cost.parameters import Shape, read_shape

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from memory import SMALL, measure  # the larger cases lie there

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
}  # fmt: skip
GPU_80, GPU_24 = 79 * GIB, int(23.6 * GIB)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    folder = tmp_path_factory.mktemp("llama-8b")
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return read_shape(folder, 10, Config().model.lora)


def case(shape: Shape, workers: int = 1, *, cpu: bool = False, **fields: Any) -> Case:
    start = {"model.method": "full", "train.strategy": "single" if workers == 1 else "ddp"}
    made = Case(Config(), shape, 10, workers, "bf16", cpu)
    return with_fields(made, start | {name.replace("__", "."): value for name, value in fields.items()})


def test_the_estimate_is_within_a_fifth_of_the_measured_peak() -> None:
    for trial, (estimated, measured) in zip(SMALL, measure(SMALL, "cpu"), strict=True):
        assert 0.8 < estimated / measured < 1.2, f"{trial.name}: {estimated} estimated, {measured} measured"


def test_an_8b_backbone(llama: Shape) -> None:
    assert llama.backbone == 7_504_924_672
    assert llama.adapters == 41_943_040
    full = estimate_memory(case(llama, 8))
    assert (full.weights, full.gradients, full.optimizer) == (4 * llama.trained("full"), full.weights, 2 * full.weights)
    assert full.total > GPU_80
    assert estimate_memory(case(llama, 8, train__strategy="deepspeed-zero3")).total < GPU_80
    quantised = estimate_memory(case(llama, model__method="qlora", train__micro_batch_tokens=2048))
    assert quantised.total < GPU_24
    assert 4 * GIB < quantised.weights < 5 * GIB
    assert estimate_memory(case(llama, model__method="qlora", model__quantization="int8")).weights > quantised.weights
    assert estimate_memory(case(llama, model__method="lora")).weights > 2 * llama.backbone


def test_targets_that_the_head_is_fitted_to_first_count_where_they_are_more_than_training_takes(llama: Shape) -> None:
    few = replace(llama, hidden=64, layers=1, head=64 * 20_000, adapters=100)
    asked = replace(case(few, model__method="lora", train__micro_batch_tokens=8, model__max_length=8), labels=20_000)
    without = with_fields(asked, {"train.head_rows": 0})
    rows = 2**26 // 20_000
    assert estimate_memory(without).total < estimate_memory(asked).total
    found = estimate_memory(asked)
    before = found.weights + found.buffers + found.reserve + found.autocast + 4 * rows * (64 + 20_000)
    assert before < found.total < before + 2**26
    assert estimate_memory(case(llama)) == estimate_memory(case(llama, train__head_rows=0))


def test_offloading_moves_memory_to_the_host(llama: Shape) -> None:
    kept = estimate_memory(case(llama, 2, train__strategy="deepspeed-zero3"))
    optimizer = estimate_memory(case(llama, 2, train__strategy="deepspeed-zero3", train__offload="optimizer"))
    both = estimate_memory(case(llama, 2, train__strategy="deepspeed-zero3", train__offload="parameters"))
    assert (kept.host, optimizer.host, both.host) == tuple(n * llama.trained("full") for n in (0, 16, 20))
    assert (optimizer.optimizer, optimizer.weights, both.weights) == (0, kept.weights, 0)


def test_a_head_alone_keeps_no_more_than_the_frozen_backbone_and_one_layer(llama: Shape) -> None:
    whole, head = case(llama), case(llama, model__method="head")
    found, layers = estimate_memory(head), estimate_memory(with_fields(head, {"train.gradient_checkpointing": True}))
    assert (found.gradients, found.optimizer) == (4 * llama.head, 8 * llama.head)
    assert found.activations == layers.activations < estimate_memory(whole).activations / 4
    assert flops_per_token(head, 256) * 3 == pytest.approx(flops_per_token(whole, 256))


@settings(max_examples=60)
@given(
    method=st.sampled_from(["full", "lora", "qlora", "head"]),
    workers=st.integers(2, 64),
    tokens=st.integers(256, 2**14),
    precision=st.sampled_from(["bf16", "fp32"]),
    again=st.booleans(),
)
def test_more_sharing_and_fewer_tokens_never_take_more(
    llama: Shape, method: str, workers: int, tokens: int, precision: str, again: bool
) -> None:
    one = case(llama, workers, model__method=method, train__batch_size=4096, train__micro_batch_tokens=tokens)
    one = replace(with_fields(one, {"train.gradient_checkpointing": again}), precision=precision)
    stages = [estimate_memory(with_fields(one, {"train.strategy": name})) for name in STRATEGIES[2:]]
    for less, more in zip(stages[1:], stages, strict=False):
        assert less.weights + less.gradients + less.optimizer <= more.weights + more.gradients + more.optimizer
    assert (
        estimate_memory(with_fields(one, {"train.micro_batch_tokens": tokens // 2})).total <= estimate_memory(one).total
    )
    checkpointed = with_fields(one, {"train.gradient_checkpointing": True})
    assert estimate_memory(checkpointed).total <= estimate_memory(one).total
    assert min(estimate_memory(one).components.values()) >= 0


def test_a_small_batch_and_long_texts_bound_the_tokens(llama: Shape) -> None:
    assert case(llama, train__batch_size=4).tokens == 4 * 256
    assert case(llama, train__micro_batch_tokens=100).tokens == 256
    assert case(llama, model__max_length=100_000).longest == 8192


@pytest.mark.parametrize(
    ("workers", "fields", "memory", "strategy"),
    [
        (1, {}, GIB, "single"),
        (8, {}, 10**15, "ddp"),
        (8, {}, 48 * GIB, "deepspeed-zero3"),
        (8, {}, GIB, "deepspeed-zero3"),
        (8, {"model.method": "lora"}, 80 * GIB, "ddp"),
        (8, {"train.strategy": "ddp"}, GIB, "ddp"),
        (8, {"train.offload": "optimizer"}, 10**15, "deepspeed-zero2"),
        (1, {"train.offload": "parameters"}, 10**15, "deepspeed-zero3"),
    ],
)
def test_auto_takes_the_first_strategy_that_fits(
    llama: Shape, workers: int, fields: dict[str, Any], memory: int, strategy: str
) -> None:
    asked = with_fields(case(llama, workers, train__strategy="auto"), fields)
    assert resolve_strategy(asked, memory) == strategy


@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_auto_takes_what_just_fits(llama: Shape, strategy: str) -> None:
    memory = estimate_memory(case(llama, 8, train__strategy=strategy)).total
    assert resolve_strategy(case(llama, 8, train__strategy="auto"), memory) == strategy


def test_workers_on_a_cpu_never_shard(llama: Shape) -> None:
    assert resolve_strategy(case(llama, 2, cpu=True, train__strategy="auto"), GIB) == "ddp"
