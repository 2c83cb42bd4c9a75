"""Checkpoints: an artifact that can be used as it is, beside the state that training goes on from. Nothing pickled.

artifact/           the classifier at this point
state.safetensors   the optimizer's tensors
state.json          the epoch and step reached
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedTokenizerBase

from rayclf import storage
from rayclf.model.artifact import save_artifact
from rayclf.model.backbone import Network
from rayclf.model.info import ArtifactInfo


@dataclass(frozen=True)
class Progress:
    """How far training has come: epochs finished, steps done."""

    epoch: int = 0
    step: int = 0


def save_checkpoint(
    folder: Path,
    network: Network,
    tokenizer: PreTrainedTokenizerBase,
    info: ArtifactInfo,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write a checkpoint into an empty folder."""
    save_artifact(folder / "artifact", network, tokenizer, info)
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    tensors = {f"{index}.{name}": value for index, values in state.items() for name, value in values.items()}
    safetensors.torch.save_file(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / "state.safetensors"
    )
    storage.write_json(folder / "state.json", asdict(progress))


def load_progress(folder: Path) -> Progress:
    """The point that a checkpoint was written at."""
    return Progress(**storage.read_json(folder / "state.json"))


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Give the optimizer, made over the same parameters, its state of the checkpoint."""
    tensors = safetensors.torch.load_file(folder / "state.safetensors")
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
