"""What computes logits of token ids: PyTorch on any device, or ONNX Runtime on a CPU, behind one small contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from rayclf.data.tokens import Ids
from rayclf.labels import Floats

Precision = Literal["auto", "fp32", "bf16", "int8"]
RuntimeName = Literal["auto", "torch", "onnx"]


class Runtime(Protocol):
    """A network ready to compute; the engine knows no more of it than this."""

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``int8``: what the backbone computes in; the head is always float32."""
        ...

    def __call__(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32 of the token ids of ``n`` rows, in their order, however they are batched."""
        ...
