"""The PyTorch runtime: rows planned by length under a budget of tokens, on any device.

What all rows of a call begin with is computed once where that saves tokens (:mod:`rayclf.model.prefix`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from rayclf.data.tokens import Ids
from rayclf.errors import ConfigError
from rayclf.labels import Floats
from rayclf.model.network import Network
from rayclf.model.packing import Batching, make_inputs
from rayclf.model.prefix import Prefix, shared_length
from rayclf.model.runtime.budget import Budget, choose_max_tokens

# Tokens that a shared prefix must save: a pass of few tokens reads all weights, as one of many does.
_WORTH_CPU, _WORTH_GPU = 256, 8192


class TorchRuntime:
    """Computes with a network where it lies; its weights may change between calls, as they do in training."""

    def __init__(
        self,
        network: Network,
        pad_token_id: int,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_tokens: int | None = None,
        batching: Batching = "auto",
    ) -> None:
        """Wrap a network; see :class:`rayclf.model.engine.Classifier` for the settings and their errors."""
        self.network = network
        self.pad_token_id = pad_token_id
        self.precision: str = precision
        self.packed = choose_batching(batching, network)
        self._budget = Budget(max_tokens or choose_max_tokens(network), self.packed)

    @property
    def max_tokens(self) -> int:
        """The tokens that a batch may cost; fewer than it was made with once a batch ran out of memory."""
        return self._budget.max_tokens

    def __call__(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32, in the order of ``ids``."""
        result = np.empty((len(ids), self.network.config.num_labels), dtype=np.float32)
        device = self.network.device
        training = self.network.training
        self.network.eval()
        try:
            # no_grad, not inference_mode: backbones cache tensors (rotary tables) that training reads afterwards.
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                prefix = self._read_prefix(ids)
                begin = prefix.length if prefix else 0

                def compute(batch: npt.NDArray[np.int64]) -> None:
                    inputs = make_inputs([ids[i][begin:] for i in batch], self.pad_token_id, self.packed)
                    logits = self.network(**inputs.to(device).arguments(), **({"prefix": prefix} if prefix else {}))
                    result[batch] = logits.cpu().numpy()

                self._budget.run([len(row) - begin for row in ids], compute)
        finally:
            self.network.train(training)
        return result

    def _read_prefix(self, ids: Sequence[Ids]) -> Prefix | None:
        """What all rows begin with, computed; None where it saves fewer tokens than a pass of its own costs."""
        if not self.network.shares_prefix:
            return None
        length = shared_length(ids)
        if (len(ids) - 1) * length < (_WORTH_CPU if self.network.device.type == "cpu" else _WORTH_GPU):
            return None
        return self.network.read_prefix(torch.from_numpy(ids[0][:length].astype(np.int64)).to(self.network.device))


def choose_batching(batching: Batching, network: Network, *, training: bool = False) -> bool:
    """Whether batches are packed: ``auto`` is so on a GPU where the backbone can, and in training anywhere.

    On a CPU, batches planned over many rows have hardly any padding to save, those of a training step's few rows have.
    Raises ConfigError for another word, or for ``packed`` with a backbone that cannot.
    """
    if batching not in get_args(Batching):
        raise ConfigError(f"batching {batching}: must be one of {', '.join(get_args(Batching))}")
    if batching == "packed" and not network.packs:
        raise ConfigError(f"batching packed: a backbone of type {network.config.model_type} cannot; use auto or padded")
    return batching == "packed" or (
        batching == "auto" and network.packs and (training or network.device.type == "cuda")
    )
