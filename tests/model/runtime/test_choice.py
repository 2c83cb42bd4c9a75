from __future__ import annotations

from typing import Any

import pytest
import torch

from rayclf.errors import ConfigError
from rayclf.model.runtime import choice
from rayclf.model.runtime.choice import ONNX_ROWS, choose_runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "precision", "model_type", "rows", "expected"),
    [
        (CPU, "fp32", "bert", ONNX_ROWS, "onnx"),
        (CPU, "fp32", "bert", ONNX_ROWS - 1, "torch"),
        (CPU, "fp32", "llama", 10**9, "torch"),
        (CPU, "bf16", "bert", 10**9, "torch"),
        (GPU, "fp32", "bert", 10**9, "torch"),
        (CPU, "int8", "bert", 1, "onnx"),
        (CPU, "int8", "llama", 1, "onnx"),  # which then says what it cannot take
    ],
)
def test_auto(device: torch.device, precision: str, model_type: str, rows: int, expected: str) -> None:
    assert choose_runtime("auto", device, precision, model_type, rows) == expected


def test_the_word_of_the_user_holds() -> None:
    assert choose_runtime("torch", CPU, "fp32", "bert", 10**9) == "torch"
    assert choose_runtime("onnx", CPU, "fp32", "bert", 1) == "onnx"
    assert choose_runtime("onnx", CPU, "fp32", "llama", 1) == "onnx"  # which then says what it cannot take


def test_not_installed_auto_is_torch_and_the_word_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    assert choose_runtime("auto", CPU, "fp32", "bert", 10**9) == "torch"
    for runtime, precision in (("onnx", "fp32"), ("auto", "int8")):
        with pytest.raises(ConfigError, match=r"install rayclf\[onnx\]"):
            choose_runtime(runtime, CPU, precision, "bert")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("jax", CPU, "fp32"), "--runtime jax: must be one of auto, torch, onnx"),
        (("torch", CPU, "int8"), "--precision int8: only --runtime onnx has it"),
        (("onnx", CPU, "bf16"), "--precision bf16: --runtime onnx knows fp32 and int8"),
        (("onnx", GPU, "fp32"), "are for a CPU, not for cuda"),
        (("auto", GPU, "int8"), "are for a CPU, not for cuda"),
    ],
)
def test_what_cannot_be_had_is_told(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_runtime(*options, "bert")
