"""Which runtime computes: what ``--runtime`` means on a device, in a precision, for a backbone and a number of rows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal, get_args

import torch

from rayclf.errors import ConfigError
from rayclf.model.runtime import RuntimeName

ONNX_ROWS = 1000  # from which on writing an ONNX model pays for itself: docs/concepts/runtimes.md


def choose_runtime(
    runtime: RuntimeName, device: torch.device, precision: str, model_type: str, expected_rows: int = 1
) -> Literal["torch", "onnx"]:
    """The runtime for a device, a precision, a type of backbone and about so many rows.

    ``auto`` is ``onnx`` for ``int8``; also in float32 on a CPU from :data:`ONNX_ROWS` rows on, for types that it takes
    and where it is installed; else ``torch``. Raises ConfigError where the one that is asked for cannot be had.
    """
    if runtime not in get_args(RuntimeName):
        raise ConfigError(f"--runtime {runtime}: must be one of {', '.join(get_args(RuntimeName))}")
    if runtime == "torch" and precision == "int8":
        raise ConfigError("--precision int8: only --runtime onnx has it")
    if runtime == "torch":
        return "torch"
    installed = find_spec("onnxruntime") is not None and find_spec("onnx") is not None
    if runtime == "auto" and precision != "int8":
        if precision != "fp32" or device.type != "cpu" or expected_rows < ONNX_ROWS or not installed:
            return "torch"
        from rayclf.model.runtime.onnx_encoder import ONNX_TYPES

        return "onnx" if model_type in ONNX_TYPES else "torch"
    if device.type != "cpu":
        raise ConfigError(f"--runtime onnx, --precision int8: are for a CPU, not for {device.type}")
    if precision not in ("fp32", "int8"):
        raise ConfigError(f"--precision {precision}: --runtime onnx knows fp32 and int8; use --runtime torch")
    if not installed:
        raise ConfigError("--runtime onnx: is not installed; install rayclf[onnx]")
    return "onnx"
