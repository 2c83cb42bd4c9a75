"""Several classifiers in one process: weights that they have in common are held once, passes made once.

A classifier is a head over pooled states. Where artifacts differ in their heads only (the backbone frozen, or one run
with other thresholds or labels), :class:`SharedBackbone` computes the states and each head, of any number of labels,
its own logits. To the runtimes it is a classifier like any other: one whose head hands on what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from rayclf.data.tokens import Ids
from rayclf.errors import ArtifactError
from rayclf.labels import Floats
from rayclf.model.artifact import load_artifact, load_head, pooled_by
from rayclf.model.engine import Classifier
from rayclf.model.head import Head
from rayclf.model.info import find_artifact, load_encoding, read_info, verify
from rayclf.model.network import Network
from rayclf.model.packing import Batching
from rayclf.model.runtime import Precision, Runtime, RuntimeName
from rayclf.model.runtime.pytorch import TorchRuntime

_ROWS = 4096  # that a head is given at once: with 25,000 labels their logits are 400 MB


class LoadOptions(TypedDict, total=False):
    """Those of :meth:`rayclf.Classifier.load`."""

    device: str
    precision: Precision
    runtime: RuntimeName
    max_tokens: int | None
    batching: Batching
    expected_rows: int


class SharedBackbone:
    """A backbone with any number of heads on it; :meth:`classifier` adds one, :meth:`pool` computes what all read."""

    def __init__(self, artifact: str | os.PathLike[str], **options: Unpack[LoadOptions]) -> None:
        """Load the backbone of ``artifact``, which need not be used itself; raises what Classifier.load does."""
        folder = find_artifact(artifact)
        self._pooled_by = pooled_by(folder, read_info(folder))
        loaded = Classifier.load(folder, **options)
        self._states = Classifier(_without_head(loaded, folder), loaded.encoding, loaded.info)
        self.device = loaded.runtime.network.device if isinstance(loaded.runtime, TorchRuntime) else torch.device("cpu")

    @property
    def runtime(self) -> Runtime:
        """What computes the states."""
        return self._states.runtime

    def pool(self, ids: Sequence[Ids]) -> Floats:
        """Pooled states ``[n, width]`` in float32 of token ids, in their order; equal rows are computed once."""
        return self._states.forward(ids)

    def classifier(self, artifact: str | os.PathLike[str]) -> Classifier:
        """The classifier of another artifact on this backbone, for which only its head is loaded.

        Raises ArtifactError when it is damaged or its pooled states are not those of this backbone.
        """
        folder = find_artifact(artifact)
        info = read_info(folder)
        verify(folder, info)
        if pooled_by(folder, info) != self._pooled_by:
            raise ArtifactError(f"{folder}: stands on another backbone than the one that is loaded; load it by itself")
        return Classifier(HeadRuntime(self, load_head(folder, info)), load_encoding(folder, info), info)


class HeadRuntime:
    """The runtime of one classifier on a :class:`SharedBackbone`."""

    def __init__(self, backbone: SharedBackbone, head: Head) -> None:
        self.backbone = backbone
        self.head = head.to(backbone.device)
        self.precision: str = backbone.runtime.precision

    def apply(self, pooled: Floats) -> Floats:
        """Raw logits ``[n, K]`` in float32 of pooled states ``[n, width]``."""
        parts = [torch.from_numpy(pooled[start : start + _ROWS]) for start in range(0, max(1, len(pooled)), _ROWS)]
        with torch.no_grad():
            return np.concatenate([self.head(part.to(self.backbone.device)).cpu().numpy() for part in parts])

    def __call__(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32, in the order of ``ids``."""
        return self.apply(self.backbone.pool(ids))


def load_together(artifacts: Sequence[str | os.PathLike[str]], **options: Unpack[LoadOptions]) -> list[Classifier]:
    """The classifiers of ``artifacts``, in their order, each giving what ``Classifier.load`` would.

    Those that differ in their heads only stand on one :class:`SharedBackbone`. Of the others, equal weights are held
    once, such as those of a backbone under adapters that are not merged into it (in bfloat16). Raises what
    Classifier.load does.
    """
    folders = [find_artifact(artifact) for artifact in artifacts]
    keys = [pooled_by(folder, read_info(folder)) for folder in folders]
    backbones: dict[str, SharedBackbone] = {}
    classifiers: list[Classifier] = []
    held: dict[str, list[Tensor]] = {}
    for folder, key in zip(folders, keys, strict=True):
        if keys.count(key) == 1:
            classifiers.append(Classifier.load(folder, **options))
            runtime = classifiers[-1].runtime
        else:
            if key not in backbones:
                backbones[key] = SharedBackbone(folder, **options)
            classifiers.append(backbones[key].classifier(folder))
            runtime = backbones[key].runtime
        if isinstance(runtime, TorchRuntime):
            hold_once(runtime.network.backbone, held)
    return classifiers


def forward_together(classifiers: Sequence[Classifier], ids: Sequence[Sequence[Ids]]) -> Iterator[Floats]:
    """Raw logits ``[n, K]`` in float32 of each classifier for its token ids, which the same list holds where they are
    the same: classifiers on one backbone then share its pass."""
    pooled: dict[tuple[int, int], Floats] = {}
    for classifier, rows in zip(classifiers, ids, strict=True):
        runtime = classifier.runtime
        if not isinstance(runtime, HeadRuntime):
            yield classifier.forward(rows)
            continue
        key = id(runtime.backbone), id(rows)
        if key not in pooled:
            pooled[key] = runtime.backbone.pool(rows)
        yield runtime.apply(pooled[key])


def hold_once(module: nn.Module, held: dict[str, list[Tensor]]) -> None:
    """Put tensors of ``held`` in the place of the module's weights of the same name and values, for inference.

    Its other weights go into ``held``, for the next module.
    """
    for name, parameter in module.named_parameters():
        for other in held.setdefault(name, []):
            alike = (other.shape, other.dtype, other.device) == (parameter.shape, parameter.dtype, parameter.device)
            if alike and torch.equal(other, parameter.data):
                parameter.data = other
                break
        else:
            held[name].append(parameter.data)


def _without_head(loaded: Classifier, folder: os.PathLike[str]) -> Runtime:
    """The runtime of a classifier, giving pooled states in the place of logits."""
    runtime = loaded.runtime
    if isinstance(runtime, TorchRuntime):
        _hand_on_states(runtime.network)
        return runtime
    from rayclf.model.runtime.onnx import OnnxRuntime  # which holds no network, but a copy of its weights

    assert isinstance(runtime, OnnxRuntime)
    network, _, info = load_artifact(find_artifact(folder), check=False)
    _hand_on_states(network)
    precision: Literal["fp32", "int8"] = "int8" if runtime.precision == "int8" else "fp32"
    return OnnxRuntime(network, info.pad_token_id, precision=precision, max_tokens=runtime.max_tokens)


class _Unchanged(Head):
    """A head whose logits are the states themselves."""

    def __init__(self, width: int) -> None:
        nn.Module.__init__(self)
        self.dense = self.activation = self.norm = self.dropout = nn.Identity()
        self.out = nn.Linear(width, width, bias=False)  # a product with 1 and sums with 0 are exact
        self.out.weight = nn.Parameter(torch.eye(width), requires_grad=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[n, width]`` as it is; runtimes that write a graph of their own read the layers."""
        return pooled


def _hand_on_states(network: Network) -> None:
    first = next(layer for layer in (network.head.dense, network.head.out) if isinstance(layer, nn.Linear))
    width = first.in_features
    network.head = _Unchanged(width).to(network.device)
    network.config.num_labels = width
