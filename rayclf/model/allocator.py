"""Memory that a pass over the network frees stays with the process: on a CPU the next pass wants as much again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of malloc.h
_LARGE = 64 * 2**20


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what is freed, blocks of more than 64 MiB excepted; for a whole process, for good.

    By default it gives large blocks back to the system, which hands them out again page by page, each of them cleared:
    some 7,000 pages a step of a small encoder, a twentieth of its time (docs/benchmarks.md). Elsewhere than on glibc
    nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, _LARGE)
