"""QLoRA's frozen backbone: linear layers quantised through bitsandbytes, and the same weights as plain floats again.

An adapter is trained against the quantised weights, so an artifact must stand on exactly those: quantisation starts
from the files' own values, whatever the precision of the run, and :func:`round_linears` gives a loaded artifact the
floats that the quantised weights stand for. It then needs no 4-bit kernels and can be merged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from rayclf.errors import BackboneError, ConfigError

Quantization = Literal["nf4", "int8"]
# When it is imported, which PEFT does, it tells of a quicker kernel that it would take from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def has_bitsandbytes() -> bool:
    """Whether bitsandbytes is installed and can be imported."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return False
    return True


def require_bitsandbytes() -> None:
    """Raise ConfigError without bitsandbytes."""
    if not has_bitsandbytes():
        raise ConfigError("model.method: qlora needs bitsandbytes; install rayclf[qlora]")


def quantize_linears(
    backbone: nn.Module, quantization: Quantization, compute_dtype: torch.dtype, device: torch.device
) -> None:
    """Replace every linear layer of the backbone by a frozen, quantised one on ``device``.

    ``nf4`` is 4-bit NormalFloat in blocks of 64 with double quantisation (QLoRA, arXiv:2305.14314, section 3); ``int8``
    has one scale a row. Both multiply in ``compute_dtype``. Raises BackboneError where there is no linear layer.
    """
    from rayclf.model.quantized_layers import int8_layer, nf4_layer

    make = nf4_layer if quantization == "nf4" else int8_layer
    _replace(backbone, lambda linear: make(linear, compute_dtype, device))
    backbone.requires_grad_(False)
    setattr(backbone, "is_loaded_in_4bit" if quantization == "nf4" else "is_loaded_in_8bit", True)  # for PEFT


def round_linears(backbone: nn.Module, quantization: Quantization, dtype: torch.dtype) -> None:
    """Give every linear layer of the backbone the values that its quantised weights stand for, as ``dtype``.

    The layers stay plain ones where they are, so bitsandbytes has no part in what follows. Raises BackboneError where
    there is no linear layer.
    """
    from rayclf.model.quantized_layers import int8_layer, nf4_layer

    make = nf4_layer if quantization == "nf4" else int8_layer
    fast = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # billions of weights take a CPU minutes

    def rounded(linear: nn.Linear) -> nn.Linear:
        weight = dequantized(make(linear, torch.float32, fast)).to(linear.weight.device, dtype)
        linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
        return linear

    _replace(backbone, rounded)


def dequantized(layer: nn.Module) -> Tensor:
    """The float32 weights ``[out, in]`` that a quantised layer stands for."""
    from rayclf.model.quantized_layers import restore

    return restore(layer)


def cast_rest(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Give the floating weights that are not quantised (norms, embeddings, biases) ``dtype``, in place."""
    for parameter in backbone.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def _replace(backbone: nn.Module, by: Callable[[nn.Linear], nn.Module]) -> None:
    made: dict[int, nn.Module] = {}
    for parent, name, linear in list(_linears(backbone)):
        if id(linear) not in made:  # layers may be shared
            made[id(linear)] = by(linear)
        setattr(parent, name, made[id(linear)])
    if not made:
        raise BackboneError("--backbone: has no linear layers to quantise; choose model.method: lora")


def _linears(backbone: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in backbone.modules():
        for name, child in parent._modules.items():
            if type(child) is nn.Linear:  # subclasses may reach for their weights in ways of their own
                yield parent, name, child
