"""Checkpoints: an artifact that can be used as it is, beside the state that training goes on from. Nothing pickled.

artifact/           the classifier at this point
state.safetensors   the optimizer's tensors, whole and by parameter name: any strategy and number of workers can go on
state.json          how far training has come
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rayclf import storage
from rayclf.errors import UserError
from rayclf.model.info import read_info
from rayclf.training.strategies import OptimizerState

# The rank of a checkpoint that was not evaluated, or to a metric that is not a number: below all others, and finite,
# since what Ray Train reads back of its own list of checkpoints is JSON.
UNRANKED = -sys.float_info.max


@dataclass(frozen=True)
class Progress:
    """How far training has come, which is all that it needs to go on: rows, rates and random numbers follow from it.

    ``best`` is the highest rank of an evaluation so far, ``stale`` the evaluations since; ``finished`` says that no
    step is to follow, because all are done or patience has run out.
    """

    step: int = 0
    best: float | None = None
    stale: int = 0
    finished: bool = False

    def ranked(self, rank: float) -> Progress:
        """The progress after an evaluation of this rank; NaN and infinity never are the best."""
        better = math.isfinite(rank) and (self.best is None or rank > self.best)
        return Progress(self.step, rank if better else self.best, 0 if better else self.stale + 1, self.finished)


def save_state(folder: Path, optimizer: OptimizerState, progress: Progress) -> None:
    """Write what training goes on from."""
    tensors = {f"{key}:{name}": value for name, values in optimizer.items() for key, value in values.items()}
    safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "state.safetensors")
    storage.write_json(folder / "state.json", asdict(progress))


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint can be gone on from: nothing of it is missing or cut short.

    Of tensors only the headers are read, which tell how long each file must be: a power cut or a copy that was broken
    off leaves shorter ones.
    """
    try:
        load_progress(folder)
        artifact = folder / "artifact"
        files = [folder / "state.safetensors", *(artifact / name for name in read_info(artifact).files)]
        for file in files:
            if file.suffix == ".safetensors":
                with safe_open(file, "np"):
                    pass
            elif not file.is_file():
                return False
    except (OSError, UserError, TypeError, SafetensorError):
        return False
    return True


def load_progress(folder: Path) -> Progress:
    """The point that a checkpoint was written at."""
    return Progress(**storage.read_json(folder / "state.json"))


def load_optimizer_state(folder: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """The optimizer's tensors by parameter name."""
    state: dict[str, dict[str, Tensor]] = {}
    for place, tensor in safetensors.torch.load_file(folder / "state.safetensors").items():
        key, _, name = place.partition(":")
        state.setdefault(name, {})[key] = tensor
    return state
