"""A linear layer and its LoRA adapter as one operation: what a training step on a CPU spends its time on.

PEFT computes ``base(x) + up(down(x)) * scaling`` one after the other, forward and back; the product, the scaling and
the sum each write the layer's whole output once more, and the gradients' sum its whole input. Here the scaling goes
into the small ``up``, and products are added in place by the multiplication itself. The numbers are PEFT's but for what
it rounds in between: a tenth less time a step in bfloat16, a twentieth in float32 (docs/benchmarks.md).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import Tensor, nn


def speed_up(backbone: nn.Module) -> None:
    """Fuse the adapted layers that can be, and spare the others copies of their input, for the same numbers.

    PEFT makes each layer's input float32, as the adapters are, and autocast then makes it bfloat16 again. Where
    autocast is off PEFT goes on, as a bfloat16 backbone could not meet its adapters otherwise. DoRA stays as it is: it
    takes its norms in the type of that input.
    """
    for layer in backbone.modules():
        if type(layer) is Linear and type(layer.base_layer) is nn.Linear:
            layer.__class__ = FusedLinear
        elif isinstance(layer, LoraLayer):
            layer.register_forward_pre_hook(_leave_cast_to_autocast)


def _leave_cast_to_autocast(layer: LoraLayer, inputs: tuple[Tensor, ...]) -> None:
    if not layer.lora_variant:
        layer.cast_input_dtype_enabled = not torch.is_autocast_enabled(inputs[0].device.type)


class FusedLinear(Linear):  # type: ignore[misc]  # PEFT's class is untyped
    """PEFT's adapted layer, in one operation on a CPU: plain LoRA without dropout over a frozen weight.

    In all other cases it is PEFT's, also where ZeRO-3 has parted the weights, which it gathers as PEFT asks for them.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``[…, in]`` to ``[…, out]``."""
        name = self._fusible(x) if not args and not kwargs else None
        if name is None:
            _leave_cast_to_autocast(self, (x,))
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        base, scaling = self.base_layer, self.scaling[name]
        return _Adapted.apply(x, base.weight, base.bias, down, up, scaling)  # type: ignore[no-untyped-call]

    def _fusible(self, x: Tensor) -> str | None:
        """The one adapter that is at work, None where PEFT is to compute."""
        weight: Tensor = self.base_layer.weight
        if x.device.type != "cpu" or weight.requires_grad or hasattr(weight, "ds_id"):
            return None
        if self.disable_adapters or self.merged or self.lora_variant or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        if name not in self.lora_A or self.lora_B[name].bias is not None:
            return None
        if not isinstance(self.lora_dropout[name], nn.Identity):
            return None
        # Where autocast is off, PEFT computes in the type of each part and makes one type of them at the end.
        if torch.is_autocast_enabled("cpu"):
            return name if weight.dtype == torch.get_autocast_dtype("cpu") else None
        return name if weight.dtype == x.dtype == self.lora_A[name].weight.dtype else None


class _Adapted(torch.autograd.Function):
    """``x W' + b + x down' up' scaling`` in the type of ``W`` ``[out, in]``; gradients of ``x``, ``down``, ``up``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        dtype = weight.dtype
        rows, low, high = x.to(dtype).reshape(-1, x.shape[-1]), down.to(dtype), (up * scaling).to(dtype)
        inner = torch.mm(rows, low.t())
        out = torch.mm(rows, weight.t()) if bias is None else torch.addmm(bias.to(dtype), rows, weight.t())
        out.addmm_(inner, high.t())
        ctx.save_for_backward(rows, weight, low, high, inner)
        ctx.like, ctx.scaling, ctx.types = x.shape, scaling, (x.dtype, down.dtype, up.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        rows, weight, low, high, inner = ctx.saved_tensors
        of_x, of_down, of_up = ctx.types
        grad = grad.reshape(-1, grad.shape[-1])
        grad_inner = torch.mm(grad, high)
        grad_up = torch.mm(grad.t(), inner).to(of_up).mul_(ctx.scaling)
        grad_down = torch.mm(grad_inner.t(), rows).to(of_down)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.mm(grad, weight).addmm_(grad_inner, low).view(ctx.like).to(of_x)
        return grad_x, None, None, grad_down, grad_up, None
