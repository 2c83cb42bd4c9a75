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


@contextmanager
def beating(folder: Path, every: float = 5.0) -> Iterator[None]:
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
