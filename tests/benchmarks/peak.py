"""The peak memory of a command with all its children."""

from __future__ import annotations

import subprocess
import threading
import time

import psutil


def peak_of(command: list[str]) -> tuple[float, float]:
    """Seconds and peak PSS in MiB of a command with all its children."""
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not done.wait(0.5):
            total = 0
            for one in [root, *root.children(recursive=True)]:
                try:
                    total += one.memory_full_info().pss
                except psutil.Error:
                    continue
            peak = max(peak, total / 2**20)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}")
    return time.perf_counter() - began, peak
