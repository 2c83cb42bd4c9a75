"""What the parts of a written graph compute, apart from any network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn

from rayclf.errors import ConfigError
from rayclf.model.runtime.onnx import onnxruntime
from rayclf.model.runtime.onnx_graph import IR_VERSION, MICROSOFT, MICROSOFT_OPSET, OPSET, Graph


def run(graph: Graph, found: str, x: np.ndarray) -> np.ndarray:
    graph.nodes.append(helper.make_node("Identity", [found], ["y"]))
    given_ = helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    made = helper.make_graph(graph.nodes, "part", [given_], [told], graph.weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def identity(width: int) -> nn.Linear:
    """A layer of which 8 bits lose nothing, so that what is lost is lost of the activations."""
    layer = nn.Linear(width, width, bias=False)
    layer.weight.data = torch.eye(width)
    return layer


def test_biases_of_a_layer_another_and_none() -> None:
    layer = nn.Linear(3, 2)
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    plain = x @ layer.weight.detach().numpy().T
    other = np.asarray([5, -7], dtype=np.float32)
    for bias, added in ((True, layer.bias.detach().numpy()), (False, 0), (other, other)):
        for int8, tolerance in ((False, 1e-6), (True, 0.05)):
            graph = Graph(int8=int8)
            np.testing.assert_allclose(
                run(graph, graph.linear("x", layer, bias=bias), x), plain + added, atol=tolerance
            )
    graph = Graph()
    np.testing.assert_allclose(run(graph, graph.linear("x", identity(3)), x), x, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.floats(0, 1e4), min_size=1, max_size=6), activation=st.sampled_from(["", "gelu", "relu"]))
def test_8_bits_round_to_the_nearest_level_of_each_token(sizes: list[float], activation: str) -> None:
    """However large the other tokens are; after an activation there are twice as many levels above zero."""
    x = np.random.default_rng(0).standard_normal((len(sizes), 64)).astype(np.float32)
    x *= np.asarray(sizes, dtype=np.float32)[:, None]
    graph = Graph(int8=True)
    found = run(graph, graph.linear(graph.activation("x", activation) if activation else "x", identity(64)), x)
    exact = {"": x, "gelu": nn.functional.gelu(torch.from_numpy(x)).numpy(), "relu": np.maximum(x, 0)}[activation]
    step = np.abs(exact).max(axis=1) / 127 if not activation else np.maximum(exact.max(axis=1), 0) / 239
    if activation == "gelu":
        step = np.maximum(step, 0.1701 / 16)  # so that -0.17 is still a level
    assert (np.abs(found - exact) <= 0.501 * step[:, None] + 1e-6).all()


def test_what_several_layers_read_is_quantised_once() -> None:
    graph = Graph(int8=True)
    for layer in (identity(4), identity(4)):
        graph.linear("x", layer)
    kinds = [node.op_type for node in graph.nodes]
    assert (kinds.count("QuantizeLinear"), kinds.count("MatMulIntegerToFloat")) == (1, 2)


def test_a_layer_that_is_not_plain_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain linear layers, not torch.nn.*Conv1d"):
        Graph().linear("x", nn.Conv1d(1, 1, 1))
