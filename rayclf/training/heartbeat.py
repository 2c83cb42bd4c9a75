"""The sign of life of a training: its driver writes the time into the run folder every few seconds.

A status file that says ``running`` outlives the process that wrote it, which may have been killed or lost with its
machine; who looks from elsewhere cannot ask for its process id. Steps are no sign of life either: loading a large
backbone or an evaluation may take longer than anybody should wait for news.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rayclf import storage
from rayclf.errors import UserError

HEARTBEAT = "heartbeat.json"
EVERY = 5.0  # seconds from one sign to the next
SILENT = 60.0  # seconds without one after which a training is taken for dead


@contextmanager
def beating(folder: Path, every: float = EVERY) -> Iterator[None]:
    """Keep ``heartbeat.json`` of a run folder fresh while the block runs, every so many seconds.

    A disk that refuses for a moment is passed over: what must be written there will tell of it.
    """
    ended = threading.Event()

    def beat() -> None:
        with suppress(OSError, UserError):
            storage.write_json(folder / HEARTBEAT, {"time": round(time.time(), 3)})

    def work() -> None:
        while not ended.wait(every):
            beat()

    beat()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def last_beat(folder: Path) -> float | None:
    """When the driver last gave a sign of life, in seconds since 1970; None where it never did."""
    try:
        return float(storage.read_json(folder / HEARTBEAT)["time"])
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None


def is_heard(folder: Path, seconds: float = 3 * EVERY) -> bool:
    """Whether a driver gives a sign of life within so many seconds, wherever it runs. One that has been silent for long
    is not waited for; else only a new sign counts, since the clock of another machine may be wrong."""
    before, deadline = last_beat(folder), time.monotonic() + seconds
    if before is None or time.time() - before > SILENT:
        return False
    while time.monotonic() < deadline:
        if last_beat(folder) != before:
            return True
        time.sleep(min(0.5, seconds / 10))
    return False
