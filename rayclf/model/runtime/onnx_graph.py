"""Write an ONNX graph node by node: the few operations of an encoder, in float32 or with 8-bit matrix products.

Operators are chosen by measurement on CPUs: what ONNX Runtime's own fusions would put in their place
(SkipLayerNormalization, BiasGelu) takes up to eight times as long as the plain operators used here, because its loops
are not vectorised. So the graph is run without those fusions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rayclf.errors import ConfigError
from rayclf.labels import Floats

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
OPSET, MICROSOFT_OPSET, IR_VERSION = 20, 1, 9  # Gelu came with opset 20
ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
}
_LOWEST = {"Relu": 0.0, "Gelu": -0.1701}  # no output is below
_BELOW = 16  # levels of such outputs for what is below zero


class Graph:
    """Nodes and weights in the order in which they are written; every method returns the name of its output."""

    def __init__(self, *, int8: bool = False, weight_levels: int = 127) -> None:
        """``int8`` makes the products of :meth:`linear` 8-bit, weights within ± ``weight_levels``."""
        self.int8 = int8
        self.weight_levels = weight_levels
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[TensorProto] = []
        self._quantized: dict[str, tuple[str, str, str]] = {}
        self._lowest: dict[str, float] = {}

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

    def linear(self, x: str, layer: nn.Module, *, bias: bool | Floats = True, float32: bool = False) -> str:
        """``[T, width]`` through a linear layer; ``bias`` is whether to add its own, or what to add instead.

        In 8 bits ``x`` is quantised once for all layers that read it. Raises ConfigError for what is not a plain linear
        layer, such as one with an adapter beside it.
        """
        plain = require_linear(layer)
        weight = np.ascontiguousarray(as_array(plain.weight).T)
        added = (plain.bias is not None and as_array(plain.bias)) if bias is True else bias
        if self.int8 and not float32:
            product = self._product_int8(x, weight)
            return product if added is False else str(self.op("Add", product, self.constant(added)))
        return str(self.op("Gemm", x, self.constant(weight), *([] if added is False else [self.constant(added)])))

    def _product_int8(self, x: str, weight: Floats) -> str:
        """8-bit weights with a scale for each output, 8-bit activations with a scale for each token.

        A token's own scale, found as it comes (as in LLM.int8(), Dettmers et al. 2022), keeps more than one for the
        whole batch, which ONNX Runtime's quantize_dynamic takes, and no row's result depends on its company.
        """
        scales = np.maximum(np.abs(weight).max(axis=0) / self.weight_levels, np.finfo(np.float32).tiny)
        levels = np.rint(weight / scales).astype(np.int8)
        if x not in self._quantized:
            self._quantized[x] = self._quantize(x)
        rounded, scale, zero = self._quantized[x]
        product = self.op(
            "MatMulIntegerToFloat",
            rounded,
            self.constant(levels),
            self._once("one", np.float32(1)),
            self.constant(scales.astype(np.float32)),
            zero,
            domain=MICROSOFT,
        )
        return str(self.op("Mul", product, scale))

    def _quantize(self, x: str) -> tuple[str, str, str]:
        """Tokens ``[T, width]`` as unsigned 8 bits, their scales ``[T, 1]``, and the level that stands for zero.

        The scale is a token's largest value by the levels above zero: half of all, or nearly all where ``x`` comes from
        an activation that hardly goes below zero. There the scale is never so small that its lowest value is cut off.
        """
        axis = self._once("last_axis", [-1])
        top = self.op("ReduceMax", x, axis, keepdims=1)
        if (lowest := self._lowest.get(x)) is None:  # two reductions are faster than a pass of Abs and one
            zero, levels, least = 128, 127, 1e-30
            top = self.op("Max", top, self.op("Neg", self.op("ReduceMin", x, axis, keepdims=1)))
        else:
            zero, levels, least = _BELOW, 255 - _BELOW, max(-lowest / _BELOW, 1e-30)
        scale = self.op("Mul", top, self._once(f"per_level_{levels}", np.float32(1 / levels)))
        scale = self.op("Max", scale, self._once(f"least_{least}", np.float32(least)))
        flat = self.op("Reshape", scale, self._once("flat", [-1]))
        point = self._once(f"zero_{zero}", np.uint8(zero))
        zeros = self.op("Expand", point, self.op("Shape", flat))
        return str(self.op("QuantizeLinear", x, flat, zeros, axis=0)), str(scale), point

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
        found = str(self.op(op, x, **attributes))
        if op in _LOWEST:
            self._lowest[found] = _LOWEST[op]
        return found

    def attention(self, q: str, k: str, v: str, heads: int) -> str:
        """Of ``[n, length, width]``, over all keys, or where the input ``mixed`` is true over the first ``lengths``."""
        branches = {}
        for name, inputs in (("then_branch", (q, k, v, "", "lengths")), ("else_branch", (q, k, v))):
            out = f"{name}_{len(self.nodes)}"
            node = helper.make_node("MultiHeadAttention", inputs, [out], domain=MICROSOFT, num_heads=heads)
            told = helper.make_tensor_value_info(out, TensorProto.FLOAT, None)
            branches[name] = helper.make_graph([node], out, [], [told])
        return str(self.op("If", "mixed", **branches))

    def _once(self, name: str, value: npt.ArrayLike) -> str:
        """A small constant that many nodes share."""
        if all(weight.name != name for weight in self.weights):
            array = np.asarray(value)
            self.weights.append(numpy_helper.from_array(array, name))
        return name


def require_linear(layer: nn.Module) -> nn.Linear:
    """The same layer; raises ConfigError unless it is a plain linear one."""
    if type(layer) is nn.Linear:
        return layer
    kind = f"{type(layer).__module__}.{type(layer).__name__}"
    raise ConfigError(
        f"--runtime onnx: reads plain linear layers, not {kind} (adapters and quantised weights are such); "
        "use --runtime torch"
    )


def as_array(tensor: Tensor) -> Floats:
    """A tensor as float32 on the CPU."""
    return tensor.detach().float().cpu().numpy()
