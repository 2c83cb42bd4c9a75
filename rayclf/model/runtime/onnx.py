"""The ONNX Runtime runtime: encoders on a CPU, in float32 or with 8-bit matrix products.

Rows of equal length share a batch, without padding and without a mask; few rows are padded and masked where that makes
fewer batches. Why this library, and the figures: docs/concepts/runtimes.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from rayclf.data.tokens import Ids
from rayclf.errors import ConfigError
from rayclf.labels import Floats
from rayclf.model.network import Network
from rayclf.model.runtime.onnx_encoder import after_pad, build
from rayclf.model.runtime.onnx_graph import IR_VERSION, OPSET
from rayclf.model.runtime.onnx_plan import Batch, plan_batches

# From 1.31 on ONNX Runtime's wheels write a device id into the user's cache and report to Microsoft, beginning with the
# import; disable_telemetry_events() is too late for both. So nothing of rayclf imports it before this line.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime

OnnxPrecision = Literal["fp32", "int8"]
_MOST_TWICE = 512 * 2**20  # bytes of weights that may be in memory twice
# In tokens, what a batch costs beside them. Below some 300 tokens products in float32 wait for the weights, which come
# from memory for each batch: with all-MiniLM 12 tokens take 1.44 times as long each as 400, and 100 take 1.2 times.
# Weights of 8 bits stay in the caches.
_BATCH_COST = {"fp32": 16, "int8": 0}
DEFAULT_TOKENS = 512  # of a batch: its activations stay near the core, its weights are read seldom enough


class OnnxRuntime:
    """Computes with a copy of a network's weights; what happens to the network afterwards changes nothing here."""

    def __init__(
        self,
        network: Network,
        pad_token_id: int,
        *,
        precision: OnnxPrecision = "fp32",
        max_tokens: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Write the network as an ONNX model, in memory alone, and load it.

        ``pad_token_id`` is what an empty row is read as. ``max_tokens`` bounds the tokens of a batch (512 when
        unset), ``threads`` the cores that compute (as many as PyTorch takes, when unset); with more than one, a model
        whose weights are not too large is in memory twice, see :meth:`__call__`. Raises ConfigError for a precision
        that is neither ``fp32`` nor ``int8``, or a network that ONNX Runtime cannot take.
        """
        if precision not in get_args(OnnxPrecision):
            raise ConfigError(f"--precision {precision}: --runtime onnx knows fp32 and int8; use --runtime torch")
        self.precision: str = precision
        self.pad_token_id = pad_token_id
        self.max_tokens = max_tokens or DEFAULT_TOKENS
        self.labels = int(network.config.num_labels)
        self._after_pad = after_pad(network)
        int8 = precision == "int8"
        levels = 127 if not int8 or _adds_exactly() else 63
        model = build(network, int8=int8, weight_levels=levels)
        self.threads = threads or torch.get_num_threads()
        self.session = _session(model, self.threads)
        self.beside: onnxruntime.InferenceSession | None = None  # computes on the thread that asks, beside others
        if self.threads > 1 and model.ByteSize() <= _MOST_TWICE:
            self.beside = _session(model, 1)
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="rayclf-onnx")

    def __call__(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32, in the order of ``ids``; a row without tokens is read as one pad token.

        Where batches are enough to keep the cores busy, each has one of them to itself: all cores on one batch after
        the other take a quarter more processor time, in which they wait for each other. Else all compute each of them.
        """
        result = np.empty((len(ids), self.labels), dtype=np.float32)
        batches = plan_batches([len(row) for row in ids], self.max_tokens, _BATCH_COST[self.precision])

        def compute(session: onnxruntime.InferenceSession, batch: Batch) -> None:
            lengths = np.asarray([max(1, len(ids[i])) for i in batch], dtype=np.int32)
            rows = np.full((len(batch), lengths.max()), self.pad_token_id, dtype=np.int32)
            for row, i in zip(rows, batch, strict=True):
                row[: len(ids[i])] = ids[i]
            inputs = {"ids": rows, "positions": self._positions(rows), "lengths": lengths}
            result[batch] = session.run(["logits"], inputs | {"mixed": np.asarray(np.ptp(lengths) > 0)})[0]

        if self.beside is not None and 2 * len(batches) > self.threads:
            list(self._pool.map(partial(compute, self.beside), batches))
        else:
            for batch in batches:
                compute(self.session, batch)
        return result

    def _positions(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Position ids ``[n, length]`` as the backbone itself numbers them."""
        if self._after_pad is None:
            return np.broadcast_to(np.arange(rows.shape[1], dtype=np.int32), rows.shape)
        counts = (rows != self._after_pad).astype(np.int32)
        return (counts.cumsum(axis=1, dtype=np.int32) * counts + self._after_pad).astype(np.int32)


def _session(model: ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Beyond "basic" it would put slower operators in the place of ours; see onnx_graph.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_mem_pattern = False  # a pattern is kept for every shape, and there are as many as lengths
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _adds_exactly() -> bool:
    """Whether this CPU's 8-bit products are exact: x86 without VNNI adds pairs in 16 bits, which can be too few.

    Weights of 7 bits cannot overflow there (ONNX Runtime's ``reduce_range``). Found by trying the largest values.
    """
    weight = numpy_helper.from_array(np.full((64, 16), 127, dtype=np.int8), "weight")
    node = helper.make_node("MatMulInteger", ["x", "weight"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [None, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [None, 16])
    graph = helper.make_graph([node], "largest", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    found = _session(model, 1).run(None, {"x": np.full((16, 64), 255, dtype=np.uint8)})[0]
    return bool(np.all(found == 64 * 255 * 127))
