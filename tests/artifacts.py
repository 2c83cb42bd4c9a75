"""Many artifacts on one backbone, written without training or PEFT: what the tests and benchmarks of hosts share."""

from __future__ import annotations

import shutil
from pathlib import Path

import safetensors.torch
import torch
from tiny import Made

from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.info import read_info, write_info


def write_many(made: Made, count: int, folder: Path) -> list[Path]:
    """Artifacts ``0``, ``1``, … like ``made`` (multiclass, LoRA), each of other weights, the i-th of i + 2 labels."""
    first = made.save(folder / "0")
    adapter = safetensors.torch.load_file(first / "adapter" / "adapter_model.safetensors")
    head = safetensors.torch.load_file(first / "head.safetensors")
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        own = folder / str(number)
        if number:
            shutil.copytree(first, own)
        moved = {k: v + 0.05 * torch.randn(v.shape, generator=generator) for k, v in adapter.items()}
        safetensors.torch.save_file(moved, own / "adapter" / "adapter_model.safetensors")
        wide = {
            k: 0.2 * torch.randn((number + 2, *v.shape[1:]), generator=generator) if k.startswith("out.") else v
            for k, v in head.items()
        }
        safetensors.torch.save_file(wide, own / "head.safetensors")
        space = LabelSpace(tuple(f"label {i}" for i in range(number + 2)), ProblemType.MULTICLASS)
        info = read_info(first) if number else made.info
        write_info(own, info.model_copy(update={"label_space": space.to_json(), "thresholds": [0.5] * len(space)}))
    return [folder / str(number) for number in range(count)]
