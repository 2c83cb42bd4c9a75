"""What is freed stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CODE = """
import resource, sys, threading
from rayclf.model.allocator import keep_freed_memory

if "keep" in sys.argv:
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        [dot * 2**24 for _ in range(4)]  # 16,384 pages, as blocks that are freed together
    told.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

told, dot = [], b"."
faults()
thread = threading.Thread(target=faults)  # Ray Train trains in a thread, which has an arena of its own
thread.start()
thread.join()
print(*told)
"""


def faults(*arguments: str) -> list[int]:
    command = [sys.executable, "-c", CODE, *arguments]
    return [int(n) for n in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="of glibc")
def test_pages_are_cleared_once_and_not_at_each_use() -> None:
    assert all(n > 40_000 for n in faults())  # or keep_freed_memory is no longer needed
    assert all(n < 25_000 for n in faults("keep"))


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    from rayclf.model import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(ctypes, "CDLL")
    allocator.keep_freed_memory()
