"""How many tokens a batch may hold: what the device's caches or free memory say, and less once it did not fit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from logging import getLogger

import numpy as np
import numpy.typing as npt
import torch

from rayclf.errors import ResourceError
from rayclf.model.network import Network
from rayclf.model.packing import plan_batches

CPU_TOKENS = 1024  # measured: docs/concepts/engine.md; above, activations leave the caches
GPU_TOKENS = 32768  # from which on a GPU gains nothing by more
_LEAST = 1024
_log = getLogger("rayclf")


class Budget:
    """A number of tokens that a batch may cost, which is lowered for good when one ran out of memory."""

    def __init__(self, max_tokens: int, packed: bool) -> None:
        """Start with ``max_tokens``; ``packed`` says what a batch costs (:func:`rayclf.model.packing.plan_batches`)."""
        self.max_tokens = max_tokens
        self.packed = packed
        self._logged = False

    def run(self, lengths: Sequence[int], compute: Callable[[npt.NDArray[np.int64]], None]) -> None:
        """Call ``compute`` with the row positions of each batch, so that in the end every row has been computed once.

        A batch that raises ``torch.OutOfMemoryError`` is split, and all that follow hold half of its tokens at most.
        Raises ResourceError for a row that does not fit alone.
        """
        sizes = np.asarray(lengths, dtype=np.int64)
        batches = deque(plan_batches(sizes, self.max_tokens, self.packed))
        while batches:
            batch = batches.popleft()
            try:
                compute(batch)
                continue
            except torch.OutOfMemoryError:
                pass  # and only after this does the failed batch let go of its tensors
            self._lower(sizes[batch])
            left = np.concatenate([batch, *batches])
            batches = deque(left[part] for part in plan_batches(sizes[left], self.max_tokens, self.packed))

    def _lower(self, sizes: npt.NDArray[np.int64]) -> None:
        if len(sizes) == 1:
            raise ResourceError(
                f"a row of {sizes[0]} tokens alone is out of the device's memory; use --precision bf16, shorter rows,"
                " or, where something else fills the device, a smaller --max-tokens"
            )
        cost = int(sizes.sum() if self.packed else len(sizes) * sizes.max())
        self.max_tokens = max(1, cost // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not self._logged:
            _log.warning("a batch of %d tokens is out of memory: from now on %d at most", cost, self.max_tokens)
            self._logged = True


def choose_max_tokens(network: Network) -> int:
    """The tokens of a batch for the network where it lies.

    On a CPU a fixed number, at which a core's caches hold what a layer makes. On a GPU half of the free memory by what
    a layer makes of a token without gradients: its widest states in float32, of which few live at once.
    """
    if network.device.type != "cuda":
        return CPU_TOKENS if network.device.type == "cpu" else GPU_TOKENS
    free, _ = torch.cuda.mem_get_info(network.device)
    held = torch.cuda.memory_reserved(network.device) - torch.cuda.memory_allocated(network.device)
    return tokens_for(network.config, free + held)


def tokens_for(config: object, free: int) -> int:
    """The tokens of a batch that half of ``free`` bytes hold, for a backbone of a Transformers config.

    >>> from transformers import BertConfig
    >>> tokens_for(BertConfig(), 80 * 2**30), tokens_for(BertConfig(), 2**20)
    (32768, 1024)
    """
    width = int(getattr(config, "hidden_size", 0) or 4096)
    inner = int(getattr(config, "intermediate_size", 0) or 4 * width)
    per_token = 4 * (8 * width + 3 * inner)
    return max(_LEAST, min(GPU_TOKENS, free // 2 // per_token))
