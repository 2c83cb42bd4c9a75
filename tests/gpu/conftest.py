"""The checks of this folder need a GPU; without one they are skipped (see :mod:`random_network` for the switch)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def gpu() -> None:
    """Skip without CUDA."""
    if os.environ.get("RAYCLF_GPU_TESTS") != "cpu" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def emptied(gpu: None) -> Iterator[None]:
    """Give back what a check took of the device, or the next 8 B would not fit beside it."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
