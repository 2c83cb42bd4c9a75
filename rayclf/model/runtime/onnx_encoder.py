"""A BERT-like encoder with its head as an ONNX model, written from the module's own weights.

Rows of equal length need no mask, and attention runs in its fastest kernel; else it is told the lengths. All else runs
over tokens alone, ``[T, width]``. Of the last layer only the first token of each row is computed, keys and values
aside, since only that one is pooled.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from torch import Tensor, nn

from rayclf.errors import ConfigError
from rayclf.model.network import Network
from rayclf.model.runtime.onnx_graph import IR_VERSION, MICROSOFT, MICROSOFT_OPSET, OPSET, Graph, as_array


@dataclass(frozen=True)
class LayerPaths:
    """Where the layers of an encoder keep their parts: dotted module paths."""

    layers: str = "encoder.layer"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attended: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    norm: str = "output.LayerNorm"


_BERT = LayerPaths()
_DISTILBERT = LayerPaths(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attended="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    norm="output_layer_norm",
)
_PATHS = dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT)
_PATHS["distilbert"] = _DISTILBERT
ONNX_TYPES = frozenset(_PATHS)
_AFTER_PAD = ("roberta", "xlm-roberta", "camembert")  # count positions from the pad token's id + 1
_LIMIT = 2**31 - 2**20  # of a protobuf message, which a model without files beside it is


def after_pad(network: Network) -> int | None:
    """The pad token's id for types whose positions count from it on, over other tokens; None for the rest."""
    config = network.config
    return int(config.pad_token_id) if config.model_type in _AFTER_PAD else None


def require_supported(network: Network) -> None:
    """Raise ConfigError, naming ``--runtime torch``, for a backbone that :func:`build` cannot write."""
    config = network.config
    if config.model_type not in ONNX_TYPES:
        known = ", ".join(sorted(ONNX_TYPES))
        raise ConfigError(
            f"--runtime onnx: not for a backbone of type '{config.model_type}' (knows {known}); use --runtime torch"
        )
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute" or getattr(config, "is_decoder", False) or network.layout.pooling != "cls":
        raise ConfigError("--runtime onnx: not for a decoder or for relative positions; use --runtime torch")
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    if size > _LIMIT:
        raise ConfigError(
            f"--runtime onnx: its models end at 2 GiB, this one has {size / 2**30:.1f} GiB; use --runtime torch"
        )


def build(network: Network, *, int8: bool = False, weight_levels: int = 127) -> onnx.ModelProto:
    """The ONNX model of ``network``: int32 ``ids`` and ``positions`` ``[n, length]`` to float32 ``logits`` ``[n, K]``.

    ``lengths`` ``[n]`` (int32) are the tokens of each row, padded on the right, and count only where ``mixed`` is true.

    With ``int8`` the products of the backbone's layers are 8-bit (see :class:`~.onnx_graph.Graph`); embeddings, norms,
    attention scores and the head stay float32. Raises ConfigError for a network that it cannot write.
    """
    require_supported(network)
    graph = Graph(int8=int8, weight_levels=weight_levels)
    backbone: Any = network.backbone
    config = network.config
    paths = _PATHS[config.model_type]
    width = int(config.hidden_size)  # DistilBERT maps the common names to its own
    grid = graph.op("Concat", graph.op("Shape", "ids"), graph.constant(np.asarray([width])), axis=0)
    flat = graph.constant(np.asarray([-1, width]))
    hidden = graph.op("Reshape", _embed(graph, backbone), flat)
    layers = list(attrgetter(paths.layers)(backbone))
    for number, layer in enumerate(layers):
        hidden = _layer(graph, layer, paths, config, hidden, grid, flat, last=number == len(layers) - 1)
    head: Any = network.head
    pooled = hidden
    if isinstance(head.dense, nn.Linear):
        pooled = graph.linear(pooled, head.dense, float32=True)
        pooled = graph.activation(pooled, str(network.layout.activation))
    logits = graph.linear(pooled, head.out, float32=True)
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT32, ["rows", "length"]) for n in ("ids", "positions")]
    inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["rows"]))
    inputs.append(helper.make_tensor_value_info("mixed", TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", config.num_labels])]
    made = helper.make_graph(graph.nodes, "classifier", inputs, outputs, graph.weights)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, MICROSOFT_OPSET)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION)


def _embed(graph: Graph, backbone: Any) -> str:
    """``[n, length, width]``: words and positions, and the first token type, which the network gives every token."""
    tables = backbone.embeddings
    places: Tensor = tables.position_embeddings.weight
    if (types := getattr(tables, "token_type_embeddings", None)) is not None:
        places = places + types.weight[0]
    words = graph.op("Gather", graph.constant(tables.word_embeddings.weight), "ids")
    summed = graph.op("Add", words, graph.op("Gather", graph.constant(places), "positions"))
    hidden = graph.norm(summed, tables.LayerNorm)
    if (project := getattr(backbone, "embeddings_project", None)) is not None:  # ELECTRA's embeddings may be narrower
        narrow = graph.op("Reshape", hidden, graph.constant(np.asarray([-1, project.in_features])))
        hidden = graph.linear(narrow, project, float32=True)
    return hidden


def _layer(
    graph: Graph, layer: nn.Module, paths: LayerPaths, config: Any, x: str, grid: str, flat: str, *, last: bool
) -> str:
    """One transformer layer over tokens ``[T, width]``; of the ``last`` the first token of each row, ``[n, width]``."""

    def part(path: str) -> Any:
        return attrgetter(path)(layer)

    query, key, value, out = (part(path) for path in (paths.query, paths.key, paths.value, paths.attended))
    k, v = (graph.op("Reshape", graph.linear(x, layer, bias=False), grid) for layer in (key, value))
    if last:
        x = graph.op("Gather", graph.op("Reshape", x, grid), graph.constant(np.asarray(0)), axis=1)
        q = graph.op("Reshape", graph.linear(x, query), graph.constant(np.asarray([-1, 1, int(config.hidden_size)])))
    else:
        q = graph.op("Reshape", graph.linear(x, query), grid)
    heads = int(config.num_attention_heads)
    mixed = graph.attention(q, k, v, heads)
    # A key's bias adds the same to all scores of a query, which the softmax takes away again; a value's bias comes out
    # of attention as it is, since weights sum to one, and so is added after the next layer.
    bias = as_array(out.bias) + as_array(out.weight) @ as_array(value.bias)
    attended = graph.linear(graph.op("Reshape", mixed, flat), out, bias=bias)
    x = graph.norm(graph.op("Add", x, attended), part(paths.attention_norm))
    name = getattr(config, "hidden_act", None) or config.activation
    inner = graph.activation(graph.linear(x, part(paths.up)), name)
    return graph.norm(graph.op("Add", x, graph.linear(inner, part(paths.down))), part(paths.norm))
