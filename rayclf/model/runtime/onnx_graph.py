"""Write an ONNX graph node by node: the few operations of an encoder, in float32 or with 8-bit matrix products.

Operators are chosen by measurement on CPUs: what ONNX Runtime's own fusions would put in their place
(SkipLayerNormalization, BiasGelu) takes up to eight times as long as the plain operators used here, because its loops
are not vectorised. So the graph is run without those fusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rayclf.errors import ConfigError

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
OPSET, MICROSOFT_OPSET, IR_VERSION = 20, 1, 9  # Gelu came with opset 20
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}
_ZERO_POINT = 128  # of activations: unsigned 8 bits with the zero in the middle, so symmetric


class Graph:
    """Nodes and weights in the order in which they are written; every method returns the name of its output."""

    def __init__(self, *, int8: bool = False, weight_levels: int = 127) -> None:
        """``int8`` makes the products of :meth:`linear` 8-bit, weights within ± ``weight_levels``."""
        self.int8 = int8
        self.weight_levels = weight_levels
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []

    def op(self, name: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """One node; a list of names where it has several ``outputs``."""
        names = [f"{name}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(name, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, value: Tensor | npt.ArrayLike) -> str:
        """A weight, or another constant; floating-point tensors of PyTorch become float32."""
        array = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def linear(self, x: str, layers: Sequence[nn.Module], *, float32: bool = False) -> str:
        """``[T, width]`` through linear layers side by side: their outputs joined, ``[T, sum of widths]``.

        Raises ConfigError for what is not a plain linear layer, such as one with an adapter beside it.
        """
        for layer in layers:
            if type(layer) is not nn.Linear:
                kind = f"{type(layer).__module__}.{type(layer).__name__}"
                raise ConfigError(
                    f"--runtime onnx: reads plain linear layers, not {kind} (adapters and quantised weights are such); "
                    "use --runtime torch"
                )
        plain = [layer for layer in layers if isinstance(layer, nn.Linear)]
        weight = np.concatenate([layer.weight.detach().float().cpu().numpy() for layer in plain]).T
        bias = np.concatenate(
            [np.zeros(n.out_features, np.float32) if n.bias is None else _array(n.bias) for n in plain]
        )
        if self.int8 and not float32:
            return self._linear_int8(x, weight, bias)
        return str(self.op("Gemm", x, self.constant(np.ascontiguousarray(weight)), self.constant(bias)))

    def _linear_int8(self, x: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> str:
        """8-bit weights with a scale for each output, 8-bit activations with a scale for each token.

        A token's own scale, found as it comes (as in LLM.int8(), Dettmers et al. 2022), keeps more than one for the
        whole batch, which ONNX Runtime's quantize_dynamic takes, and no row's result depends on its company.
        """
        scales = np.maximum(np.abs(weight).max(axis=0) / self.weight_levels, np.finfo(np.float32).tiny)
        levels = np.rint(weight / scales).astype(np.int8)
        axis = self._once("last_axis", [-1])  # two reductions are faster than a pass of Abs and one
        top, bottom = (self.op(reduce, x, axis, keepdims=1) for reduce in ("ReduceMax", "ReduceMin"))
        largest = self.op("Max", top, self.op("Neg", bottom), self._once("tiny", np.float32(1e-30)))
        scale = self.op("Mul", largest, self._once("per_level", np.float32(1 / 127)))
        flat = self.op("Reshape", scale, self._once("flat", [-1]))
        zeros = self.op("Expand", self._once("zero_point", np.uint8(_ZERO_POINT)), self.op("Shape", flat))
        rounded = self.op("QuantizeLinear", x, flat, zeros, axis=0)
        product = self.op(
            "MatMulIntegerToFloat",
            rounded,
            self.constant(levels),
            self._once("one", np.float32(1)),
            self.constant(scales.astype(np.float32)),
            self._once("zero_point", np.uint8(_ZERO_POINT)),
            domain=MICROSOFT,
        )
        return str(self.op("Add", self.op("Mul", product, scale), self.constant(bias)))

    def norm(self, x: str, layer: nn.LayerNorm) -> str:
        """Layer normalisation over the last axis."""
        return str(
            self.op("LayerNormalization", x, self.constant(layer.weight), self.constant(layer.bias), epsilon=layer.eps)
        )

    def activation(self, x: str, name: str) -> str:
        """An activation by Transformers' name; raises ConfigError for one that is not in :data:`ACTIVATIONS`."""
        if name not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ConfigError(f"--runtime onnx: has no activation '{name}' (knows {known}); use --runtime torch")
        op, attributes = ACTIVATIONS[name]
        return str(self.op(op, x, **attributes))

    def _once(self, name: str, value: npt.ArrayLike) -> str:
        """A small constant that many nodes share."""
        if all(weight.name != name for weight in self.weights):
            array = np.asarray(value)
            self.weights.append(numpy_helper.from_array(array, name))
        return name


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()
