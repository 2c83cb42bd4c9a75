"""Many classifiers on one backbone: each an adapter and a head of its own size, all in the same batches.

Artifacts of ``tuning: lora`` whose backbone has the same weights share one base network in memory
(:class:`AdapterBackbone`). Each is still a :class:`~rayclf.model.engine.Classifier` that encodes and reads its own
logits; :func:`forward_mixed` computes rows of any of them together. What is not needed any more is let go with its last
reference, so nothing can be unloaded under a batch that runs.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rayclf.data.tokens import Ids
from rayclf.errors import ArtifactError, one_line
from rayclf.labels import Floats
from rayclf.model.artifact import HEAD
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import fetch, weight_hashes
from rayclf.model.engine import Classifier, choose_device, choose_precision
from rayclf.model.head import Head
from rayclf.model.info import ArtifactInfo, load_encoding, read_info, verify
from rayclf.model.low_rank import Layers, Mixer, read_layers
from rayclf.model.network import Network
from rayclf.model.packing import Batching, make_inputs
from rayclf.model.quantize import has_bitsandbytes
from rayclf.model.runtime import Precision
from rayclf.model.runtime.budget import Budget
from rayclf.model.runtime.pytorch import TorchRuntime


@dataclass(frozen=True, eq=False)
class Adapter:
    """What one classifier adds to the shared backbone."""

    layers: Layers
    head: Head
    labels: int
    pad_token_id: int

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(x.nbytes for x in self.layers.values()) + sum(x.nbytes for x in self.head.state_dict().values())


class _Pooled(nn.Module):
    """In the place of a network's head: the pooled states themselves. It keeps the head as a form for others."""

    def __init__(self, form: Head) -> None:
        super().__init__()
        self.form = form

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled


def share_key(info: ArtifactInfo) -> Hashable | None:
    """Artifacts of equal keys can share a backbone; None for one that has its own (``tuning: full``)."""
    if info.tuning != "lora":
        return None
    ref = info.backbone
    return ref.model_type, tuple(sorted(ref.sha256.items())), info.quantization, info.pooling


class AdapterBackbone:
    """A base network without a head, which computes rows of many adapters in one batch."""

    def __init__(
        self,
        network: Network,
        key: Hashable,
        pad_token_id: int,
        *,
        precision: str = "fp32",
        max_tokens: int | None = None,
        batching: Batching = "auto",
    ) -> None:
        """Take over ``network``, which must stand on the untouched backbone; ``key`` is its :func:`share_key`."""
        self.key = key
        self.precision = precision
        self.network = network.eval()
        self._form = network.head
        first = self._form.dense if isinstance(self._form.dense, nn.Linear) else self._form.out
        assert isinstance(first, nn.Linear)
        network.head = _Pooled(self._form)  # type: ignore[assignment]
        self._width = network.config.num_labels = first.in_features  # of what the network now gives: pooled states
        high: Literal["fp32", "bf16"] = "bf16" if precision == "bf16" else "fp32"
        self._runtime = TorchRuntime(network, pad_token_id, precision=high, max_tokens=max_tokens, batching=batching)
        self._budget = Budget(self._runtime.max_tokens, self._runtime.packed)
        self._mixer = Mixer(network.backbone)
        self._lock = threading.Lock()
        self._tokenizers: dict[str, str] = {}

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        max_tokens: int | None = None,
        batching: Batching = "auto",
    ) -> AdapterBackbone:
        """Load the backbone of the artifact in ``folder``; settings are those of :meth:`Classifier.load`.

        Raises ArtifactError, BackboneError, ConfigError or ResourceError.
        """
        info = read_info(folder)
        ref, place = info.backbone, choose_device(device)
        if precision == "auto" and place.type == "cpu":
            precision = "fp32"
        chosen = choose_precision(precision, place)  # type: ignore[arg-type]  # which refuses int8
        if info.tuning != "lora":
            raise ArtifactError(f"{folder}: has a backbone of its own (tuning: full), which no other can share")
        source = fetch(ref.id, ref.revision)
        if weight_hashes(source) != ref.sha256:
            raise ArtifactError(
                f"{folder}: its adapter was trained on other weights than those in {source}; give it back {ref.id}"
            )
        if info.quantization and not has_bitsandbytes():
            raise ArtifactError(f"{folder}: its adapter stands on quantised weights (qlora); install rayclf[qlora]")
        dtype = torch.bfloat16 if chosen == "bf16" else torch.float32
        network = load_network(source, info.space, dtype=dtype, quantization=info.quantization, dequantize=True)
        network.to(place)
        key = share_key(info)
        return cls(network, key, info.pad_token_id, precision=chosen, max_tokens=max_tokens, batching=batching)

    @property
    def max_tokens(self) -> int:
        """The tokens that a batch may cost; fewer than it was made with once a batch ran out of memory."""
        return min(self._budget.max_tokens, self._runtime.max_tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the base network."""
        return sum(tensor.nbytes for tensor in self.network.state_dict().values())

    def classifier(self, folder: Path) -> Classifier:
        """The classifier in ``folder`` on this backbone; safe while other threads compute.

        Raises ArtifactError when it is damaged or stands on another backbone, Unshareable for adapters that cannot mix.
        """
        info = read_info(folder)
        if share_key(info) != self.key:
            raise ArtifactError(f"{folder}: stands on another backbone ({info.backbone.id}); load it alone")
        verify(folder, info)
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        layers = read_layers(self.network.backbone, folder / "adapter", dtype)
        adapter = Adapter(layers, self._read_head(folder, info), len(info.space), info.pad_token_id)
        encoding = load_encoding(folder, info)
        # Tokenizers of one backbone are mostly equal and can have many megabytes.
        shared = self._tokenizers.setdefault(encoding.tokenizer_json, encoding.tokenizer_json)
        return Classifier(AdapterRuntime(self, adapter), replace(encoding, tokenizer_json=shared), info)

    def _read_head(self, folder: Path, info: ArtifactInfo) -> Head:
        head, last = copy.deepcopy(self._form), self._form.out
        assert isinstance(last, nn.Linear)
        head.out = nn.Linear(last.in_features, len(info.space), bias=last.bias is not None, device=self.network.device)
        try:
            head.load_state_dict(safetensors.torch.load_file(folder / HEAD), strict=True)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ArtifactError(f"{folder / HEAD}: does not hold this classifier's head ({one_line(error)})") from None
        return head.eval().requires_grad_(False)

    def forward(self, ids: Sequence[Ids], adapters: Sequence[Adapter]) -> list[Floats]:
        """Raw logits ``[K_i]`` in float32 of each row under its adapter; equal rows of one are computed once."""
        first: dict[tuple[int, bytes], int] = {}
        source = [first.setdefault((id(a), row.tobytes()), len(first)) for row, a in zip(ids, adapters, strict=True)]
        kept = dict(zip(reversed(source), reversed(range(len(ids))), strict=True))
        places = [kept[i] for i in range(len(first))]
        own = [adapters[i] for i in places]
        rows = [ids[i] if len(ids[i]) else np.asarray([adapters[i].pad_token_id], dtype=np.int32) for i in places]
        groups: dict[int, list[int]] = {}
        for i, adapter in enumerate(own):
            groups.setdefault(id(adapter), []).append(i)
        logits = [np.empty(0, dtype=np.float32)] * len(rows)
        with self._lock, torch.no_grad():
            states = self._pooled(rows, own, list(groups.values()))
            for group in groups.values():
                for i, row in zip(group, own[group[0]].head(states[group]).cpu().numpy(), strict=True):
                    logits[i] = row
        return [logits[i] for i in source]

    def _pooled(self, rows: Sequence[Ids], own: Sequence[Adapter], groups: Sequence[Sequence[int]]) -> Tensor:
        """Pooled states ``[n, width]`` on the device; ``groups`` are the rows of each adapter."""
        device = self.network.device
        states = torch.empty((len(rows), self._width), device=device)
        # Only where tokens meet in attention alone is it known which of a layer's states are of which row.
        if len(groups) < 2 or not self.network.packs:
            for group in groups:
                with self._mixer.mixed([own[group[0]].layers]):
                    states[list(group)] = torch.from_numpy(self._runtime([rows[i] for i in group])).to(device)
            return states
        place = {i: position for position, i in enumerate(i for group in groups for i in group)}

        def compute(batch: npt.NDArray[np.int64]) -> None:
            ordered = sorted(batch.tolist(), key=place.__getitem__)  # rows of one adapter side by side
            inputs = make_inputs([rows[i] for i in ordered], self._runtime.pad_token_id, self._runtime.packed)
            lengths = None if inputs.lengths is None else inputs.lengths.tolist()
            with self._mixer.mixed([own[i].layers for i in ordered], lengths):
                states[ordered] = self.network(**inputs.to(device).arguments())

        low = torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with low:
            self._budget.run([len(row) for row in rows], compute)
        return states


class AdapterRuntime:
    """One adapter of a shared backbone, as the engine knows a runtime."""

    def __init__(self, backbone: AdapterBackbone, adapter: Adapter) -> None:
        """Hold both: the backbone lives as long as one of its classifiers."""
        self.backbone = backbone
        self.adapter = adapter

    @property
    def precision(self) -> str:
        """``fp32`` or ``bf16``."""
        return self.backbone.precision

    def __call__(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32, in the order of ``ids``."""
        found = self.backbone.forward(ids, [self.adapter] * len(ids))
        return np.stack(found) if found else np.empty((0, self.adapter.labels), dtype=np.float32)


def forward_mixed(ids: Sequence[Ids], classifiers: Sequence[Classifier]) -> list[Floats]:
    """Raw logits ``[K_i]`` in float32 of each row by its own classifier.

    Rows of classifiers that share a backbone are computed in the same batches, others a classifier at a time.
    """
    groups: dict[int, list[int]] = {}
    for i, classifier in enumerate(classifiers):
        runtime = classifier.runtime
        groups.setdefault(id(runtime.backbone if isinstance(runtime, AdapterRuntime) else classifier), []).append(i)
    result = [np.empty(0, dtype=np.float32)] * len(ids)
    for group in groups.values():
        rows, runtimes = [ids[i] for i in group], [classifiers[i].runtime for i in group]
        shared = [runtime for runtime in runtimes if isinstance(runtime, AdapterRuntime)]
        if shared:
            logits = shared[0].backbone.forward(rows, [runtime.adapter for runtime in shared])
        else:
            logits = list(classifiers[group[0]].forward(rows))
        for i, row in zip(group, logits, strict=True):
            result[i] = row
    return result
