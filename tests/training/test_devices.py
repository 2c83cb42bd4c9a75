"""The table of devices."""

from __future__ import annotations

import pytest
import torch

from rayclf.errors import ConfigError
from rayclf.model.engine import choose_precision
from rayclf.training.cost.devices import DEVICES, find_device


@pytest.mark.parametrize(
    ("name", "found"),
    [("H100", "h100"), ("a100", "a100-80"), ("A100_40", "a100-40"), ("RTX 4090", "rtx4090"), ("nvidia-l4", "l4")],
)
def test_names_are_found_in_any_spelling(name: str, found: str) -> None:
    assert find_device(name) is DEVICES[found]


def test_an_unknown_device_names_the_known() -> None:
    with pytest.raises(ConfigError, match="--device h1000: .* t4, .*, cpu"):
        find_device("h1000")


def test_t4_has_no_bf16() -> None:
    t4 = find_device("t4")
    assert t4.precision("auto") == "fp32"
    assert t4.flops("fp32") < 8.1e12
    with pytest.raises(ConfigError, match="train.precision: t4"):
        t4.precision("bf16")


def test_workers_share_the_memory_of_a_cpu() -> None:
    assert find_device("cpu", 4).memory == find_device("cpu").memory // 4
    assert find_device("cpu").is_cpu


def test_a_cpu_computes_in_what_training_would_choose() -> None:
    cpu = find_device("cpu")
    assert cpu.precision("auto") == choose_precision("auto", torch.device("cpu"))
    assert cpu.precision("bf16") == "bf16"
    assert cpu.flops("bf16") == cpu.flops("fp32") * (2 if cpu.precision("auto") == "bf16" else 1)


def test_figures_are_sane() -> None:
    for device in DEVICES.values():
        assert 10 * 2**30 < device.memory < 300 * 2**30
        assert 0 < device.mfu < 1
        assert device.bf16 is None or device.bf16 > device.fp32
