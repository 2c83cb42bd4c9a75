"""The devices that a training can be planned for: what they hold and how fast they compute.

Figures are the makers' for dense matrices (no sparsity), memory what the driver reports as the whole. ``mfu`` is the
share of ``bf16`` that training of a backbone from about 1 B on is assumed to reach, as published runs do (40-50 % on
A100 for 7-70 B, PaLM arXiv:2204.02311 and MegatronLM; less where compute has outgrown memory bandwidth). A small
backbone reaches less.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from rayclf.cluster import cores
from rayclf.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One GPU, or the share of a machine's CPUs that a worker gets.

    ``memory`` in bytes; ``bf16`` and ``fp32`` in TFLOP/s, ``bf16`` None where the device does not compute in it.
    """

    name: str
    memory: int
    bf16: float | None
    fp32: float
    mfu: float

    @property
    def is_cpu(self) -> bool:
        """Whether it is no GPU."""
        return self.name == "cpu"

    def precision(self, wanted: str) -> str:
        """``train.precision`` resolved; raises ConfigError for bf16 on a GPU without it."""
        if wanted == "bf16" and self.bf16 is None and not self.is_cpu:
            raise ConfigError(f"train.precision: {self.name} does not compute in bf16; use auto or fp32")
        return ("bf16" if self.bf16 is not None else "fp32") if wanted == "auto" else wanted

    def flops(self, precision: str) -> float:
        """FLOP/s that training is assumed to reach."""
        return 1e12 * self.mfu * (self.bf16 if precision == "bf16" and self.bf16 is not None else self.fp32)


def _gpu(name: str, gib: float, bf16: float | None, fp32: float, mfu: float) -> Device:
    return Device(name, int(gib * GIB), bf16, fp32, mfu)


_GPUS = (
    _gpu("t4", 14.7, None, 8.1, 0.5),
    _gpu("l4", 22.1, 121, 30.3, 0.35),
    _gpu("a10g", 22.1, 70, 31.2, 0.4),
    _gpu("rtx4090", 23.6, 165, 82.6, 0.4),
    _gpu("a100-40", 39.4, 312, 19.5, 0.45),
    _gpu("l40s", 44.4, 362, 91.6, 0.35),
    _gpu("a100-80", 79.2, 312, 19.5, 0.45),
    _gpu("h100", 79.1, 989, 66.9, 0.4),
    _gpu("h200", 139.8, 989, 66.9, 0.4),
    _gpu("b200", 178.4, 2250, 75, 0.35),
    _gpu("mi300x", 191.5, 1307, 163.4, 0.3),
)
DEVICES = {device.name: device for device in _GPUS}
NAMES = (*DEVICES, "cpu")
_OTHER_NAMES = {"a100": "a100-80", "a10080gb": "a100-80", "a10040gb": "a100-40", "a10": "a10g", "4090": "rtx4090"}
_CORE_TFLOPS = 0.06  # float32 of one core with AVX2, dense; bf16 is twice as fast where the core computes in it


def find_device(name: str, workers: int = 1) -> Device:
    """A device by name, in any case; ``cpu`` is this machine shared by ``workers``. Raises ConfigError for others."""
    key = name.lower().replace("_", "-").replace(" ", "-")
    short = key.replace("-", "").removeprefix("nvidia").removeprefix("amd")
    if short == "cpu":
        import torch

        from rayclf.model.engine import choose_precision

        low = choose_precision("auto", torch.device("cpu")) == "bf16"
        fp32 = _CORE_TFLOPS * max(1.0, cores() / workers)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers
        return Device("cpu", memory, 2 * fp32 if low else None, fp32, 0.5)
    by_short = {name.replace("-", ""): device for name, device in DEVICES.items()}
    found = by_short.get(short) or DEVICES.get(_OTHER_NAMES.get(short, ""))
    if found is None:
        raise ConfigError(f"--device {name}: not in the table; choose one of {', '.join(NAMES)}")
    return found
