"""Linear layers over bitsandbytes' 4-bit and 8-bit weights. The one module that imports bitsandbytes at its top."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import bitsandbytes
import torch
from torch import Tensor, nn

bnb: Any = bitsandbytes  # it is typed in part, and not for all that it exports


def nf4_layer(linear: nn.Linear, compute_dtype: torch.dtype, device: torch.device) -> nn.Module:
    """``linear`` with 4-bit NormalFloat weights, doubly quantised, on ``device``."""
    layer: Any = Nf4Linear(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=compute_dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = bnb.nn.Params4bit(linear.weight.detach(), compress_statistics=True, quant_type="nf4", module=layer)
    layer.weight = weight.to(device)
    layer.bias = _frozen(linear.bias, device)
    # What the backward pass restores the weights to; it would be what they were quantised from.
    layer.weight.quant_state.dtype = compute_dtype
    # On CPUs with AVX512-BF16 a forward pass in evaluation would repack the weights into a form without a backward
    # pass: from then on the adapters below would get no gradients, and nothing would say so.
    layer.support_avx512bf16_for_cpu = False
    return layer


def int8_layer(linear: nn.Linear, compute_dtype: torch.dtype, device: torch.device) -> nn.Module:
    """``linear`` with 8-bit weights and one scale a row, on ``device``."""
    layer: Any = Int8Linear(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, device="meta"
    )
    weight = linear.weight.detach().to("cpu")  # bitsandbytes quantises on the way from the CPU to a device
    layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False).to(device)
    layer.weight.CB = None  # the same codes under a second name, which would stay behind on a move
    layer.bias = _frozen(linear.bias, device)
    layer.compute_dtype = compute_dtype
    return layer


def restore(layer: Any) -> Tensor:
    """The float32 weights ``[out, in]`` that a layer of either kind stands for."""
    weight = layer.weight
    if isinstance(weight, bnb.nn.Int8Params):
        return _restore_int8(weight.data, weight.SCB)
    return _restore_nf4(weight.data, weight.quant_state)


def _frozen(bias: Tensor | None, device: torch.device) -> nn.Parameter | None:
    # A copy: bitsandbytes changes the type of a bias in place.
    return None if bias is None else nn.Parameter(bias.detach().clone().to(device), requires_grad=False)


def _restore_int8(codes: Tensor, scales: Tensor) -> Tensor:
    return codes.float() * (scales / 127).unsqueeze(1)


def _restore_nf4(packed: Tensor, state: Any) -> Tensor:
    # Not bitsandbytes' own: on a CPU that takes blocks to start with a row, and is wrong where rows are no multiple
    # of the block; and it rounds to the type that the weights had.
    scales = bnb.functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    size = math.prod(state.shape)
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).view(-1).int()
    codes = nn.functional.pad(codes, (0, scales.numel() * state.blocksize - codes.numel()))
    blocks = state.code[codes].view(-1, state.blocksize) * scales.unsqueeze(1)
    return blocks.view(-1)[:size].view(state.shape)


class Nf4Linear(bnb.nn.Linear4bit):  # type: ignore[misc]  # of Any
    """bitsandbytes' 4-bit layer, right for rows of any length on a CPU too (see :func:`_restore_nf4`)."""

    @property
    def W_q(self) -> nn.Parameter:
        """Its presence lets PEFT (DoRA) ask :meth:`dequantize` for the weights."""
        return self.weight

    def dequantize(self) -> Tensor:
        """The float32 weights ``[out, in]``."""
        return _restore_nf4(self.weight.data, self.weight.quant_state)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]`` of the same type, multiplied in ``compute_dtype``."""
        if x.device.type != "cpu" or self.in_features % self.weight.quant_state.blocksize == 0:
            return super().forward(x)
        return _multiply(x, self.dequantize, self.bias, self.compute_dtype)


class Int8Linear(bnb.nn.Linear8bitLt):  # type: ignore[misc]  # of Any
    """8-bit weights, inputs left as they are.

    bitsandbytes' own layer also rounds its inputs to 8 bits (LLM.int8(), arXiv:2208.07339), but on a CPU only outside
    of training: an evaluation would not measure the function that was trained, and no reloaded classifier, merged or
    exported, could be the same. It stays one of bitsandbytes' layers since PEFT asks for that.
    """

    compute_dtype: torch.dtype = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]`` of the same type, multiplied in ``compute_dtype``."""
        weight = self.weight
        if weight.SCB.device != weight.device:  # moving a module leaves attributes of its parameters behind
            weight.SCB = weight.SCB.to(weight.device)
        return _multiply(x, lambda: _restore_int8(weight.data, weight.SCB), self.bias, self.compute_dtype)


def _multiply(x: Tensor, weight: Callable[[], Tensor], bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    given = None if bias is None else bias.to(dtype)
    product: Tensor = _Product.apply(x.to(dtype), weight, given)  # type: ignore[no-untyped-call]
    return product.to(x.dtype)


class _Product(torch.autograd.Function):
    """``x @ W.T + b`` that restores W anew for the backward pass; plain autograd would keep its floats."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Callable[[], Tensor], bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, weight().to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] @ ctx.weight().to(grads[0].dtype), None, None
