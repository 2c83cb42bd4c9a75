"""Plan before you pay: FLOPs, time, what is read of the data, and what would make a training fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_memory import GPU_80, case, llama
from tiny import decoder_tokenizer

from rayclf.data.prepare import prepare
from rayclf.errors import ConfigError, ResourceError
from rayclf.training.cost.estimate import Estimate, count, estimate, find_mend, flops_per_token
from rayclf.training.cost.memory import estimate_memory
from rayclf.training.cost.parameters import Shape

__all__ = ["llama"]  # a fixture
LENGTH = 512


def test_flops_follow_the_convention(llama: Shape) -> None:
    attention = 3 * 4 * 4096 * LENGTH * 32 // 2
    full, lora = case(llama), case(llama, model__method="lora")
    assert llama.active == llama.backbone - 128256 * 4096
    assert flops_per_token(full, LENGTH) == 6 * llama.active + attention
    assert flops_per_token(lora, LENGTH) == 4 * llama.active + 6 * llama.adapters + attention
    again = case(llama, train__gradient_checkpointing=True)
    assert flops_per_token(again, LENGTH) - flops_per_token(full, LENGTH) == 2 * llama.active + attention // 3


@pytest.mark.parametrize(
    ("workers", "fields", "memory", "flags"),
    [
        (1, {"model__method": "lora"}, 46, ("--set train.micro_batch_tokens=4096",)),
        (8, {}, 79, ("--set train.strategy=deepspeed-zero1",)),
        (1, {"model__method": "lora"}, 17.1, ("--set train.gradient_checkpointing=true",)),
        (1, {"model__method": "lora"}, 12, ("--set model.method=qlora",)),
        (1, {}, 20, ("--set model.method=lora",)),
        (1, {"train__batch_size": 64}, 0.1, None),
    ],
)
def test_the_mend_is_the_least_costly_that_fits(
    llama: Shape, workers: int, fields: dict[str, Any], memory: float, flags: tuple[str, ...] | None
) -> None:
    asked = case(llama, workers, **fields)
    found = find_mend(asked, int(memory * 2**30))
    if flags is None:
        assert found is None
        return
    assert found is not None
    assert found.flags[: len(flags)] == flags
    assert found.memory.total <= memory * 2**30 < estimate_memory(asked).total


def test_more_gpus_are_the_last_resort(llama: Shape) -> None:
    large = replace(llama, backbone=20 * llama.backbone, linear=20 * llama.linear)
    found = find_mend(case(large, 2, model__method="qlora"), 30 * 2**30)
    assert found is not None
    assert found.flags[0] == "--set train.strategy=deepspeed-zero3"


def test_rows_and_tokens_make_the_time(backbone: Callable[[str], Path]) -> None:
    asked: dict[str, Any] = {"backbone": str(backbone("llama")), "device": "a100-80", "labels": 3}
    one = estimate(rows=1000, tokens_per_row=20, **asked)
    assert (one.tokens, one.epochs, one.method, one.strategy, one.precision) == (60_000, 3, "lora", "single", "bf16")
    assert one.flops
    assert one.head_rows == 1000
    later = estimate(rows=1000, tokens_per_row=20, overrides={"train.head_rows": 0}, **asked)
    assert later.head_rows == 0
    assert later.flops
    forward = (later.flops / 60_000 + 2 * later.shape.active) / 3  # of LoRA, which takes no gradients of weights
    assert one.flops == pytest.approx(later.flops + 20_000 * forward)
    assert one.seconds == pytest.approx(one.flops / (312e12 * 0.45))
    eight = estimate(rows=1000, tokens_per_row=20, gpus=8, **asked)
    assert eight.strategy == "ddp"
    assert eight.seconds == pytest.approx(one.seconds / 8)
    assert eight.gpu_hours == pytest.approx(one.gpu_hours)
    assert estimate(rows=1000, tokens_per_row=1000, **asked).tokens_per_row == 96  # what the backbone takes
    assert estimate(**asked).seconds is None
    assert estimate(rows=10, **(asked | {"device": "cpu"})).gpu_hours is None


@pytest.mark.parametrize("prepared", [False, True])
def test_data_is_counted_and_sampled(tmp_path: Path, write_tiny: Callable[..., Path], prepared: bool) -> None:
    folder = write_tiny("llama")
    (folder / "model.safetensors").unlink()
    texts = [f"the cell number {n} " + "energy " * (n % 7) for n in range(60)]
    place = tmp_path / "x.csv"
    place.write_text("text,label\n" + "".join(f"{text},{'abc'[n % 3]}\n" for n, text in enumerate(texts)))
    rows = prepare(place, tmp_path / "prepared").rows["train"]
    if prepared:
        place = tmp_path / "prepared"
    tokenizer = decoder_tokenizer()
    mean = sum(min(24, len(tokenizer(text)["input_ids"])) for text in texts) / len(texts)
    found = estimate(data=place, backbone=str(folder), overrides={"model.max_length": 24})
    assert (found.rows, found.labels) == (rows, 3)
    assert found.tokens_per_row == pytest.approx(mean, rel=0.1 if prepared else 1e-6)  # of the training rows, or all
    assert found.tokens == round(rows * found.tokens_per_row * 3)


def test_what_does_not_fit_is_refused_with_the_flag(llama: Shape, backbone: Callable[[str], Path]) -> None:
    fits = estimate(backbone=str(backbone("bert")), device="t4")
    assert (fits.precision, fits.method, fits.mend) == ("fp32", "full", None)
    fits.require()
    asked = case(llama, 8)
    memory = estimate_memory(asked)
    told: Estimate = replace(
        fits, shape=llama, memory=memory, device=replace(fits.device, memory=GPU_80), strategy="ddp", gpus=8
    )
    told = replace(told, mend=find_mend(asked, GPU_80))
    assert not told.fits
    with pytest.raises(
        ResourceError, match=r"full tuning of 7.5 B parameters, ddp, takes .* GiB .*; add --set train\.str"
    ):
        told.require()
    with pytest.raises(ResourceError, match="a smaller backbone"):
        replace(told, mend=None).require()


def test_wrong_settings_are_told(backbone: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="--device"):
        estimate(backbone=str(backbone("bert")), device="abacus")
    with pytest.raises(ConfigError, match="train.precision: t4"):
        estimate(backbone=str(backbone("bert")), device="t4", overrides={"train.precision": "bf16"})


def test_large_numbers_are_short() -> None:
    assert [count(n) for n in (12, 1234, 22.7e6, 7.5e9, 1.2e12)] == ["12", "1.23 k", "22.7 M", "7.5 B", "1.2 T"]
