"""The run folder's scribe: an actor beside the driver that writes down what the workers, on any node, report.

It also carries the one word that goes the other way: that training is to stop at the next step.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayclf import storage
from rayclf.training.run import NOTHING, Run

PREDICTIONS = "predictions.parquet"


class Journal:
    """Appends to ``metrics.jsonl`` and keeps the progress in ``status.json``, at most once a second."""

    def __init__(self, folder: Path) -> None:
        self._run = Run(folder)
        for name in ("metrics.jsonl", "samples.jsonl"):
            _drop_torn_line(folder / name)
        self._stamped = 0.0
        self._stopping = False
        self._processes: dict[str, dict[str, Any]] = {}
        self._results: dict[str, Any] | None = None
        self._draft = folder / f"{PREDICTIONS}.tmp"
        self._writer: pq.ParquetWriter | None = None
        self._early: dict[int, pa.Table] = {}
        self._next = 0

    def event(self, event: dict[str, Any]) -> None:
        """Write one line; an event with a ``step`` is progress as well."""
        self._append("metrics.jsonl", [{"time": round(time.time(), 3), **event}])
        if time.monotonic() - self._stamped > 1 and event["kind"] == "step":
            self._stamped = time.monotonic()
            self._run.write_status(step=event["step"], epoch=event["epoch"])

    def begin(self, step: int | None) -> None:
        """Note that workers begin after ``step``, or from nothing; what earlier ones did beyond that is undone."""
        self._close()
        self._early, self._next = {}, 0
        if self._run.lines:
            self.event({"kind": "resumed", "step": NOTHING if step is None else step, "epoch": 0})

    def note(self, **fields: Any) -> None:
        """Add to ``status.json``."""
        self._run.write_status(**fields)

    def worker(self, rank: int, world: int, host: str, pid: int) -> None:
        """Note where a worker runs, for those who want to look at its process."""
        self._processes = {other: place for other, place in self._processes.items() if int(other) < world}
        self._processes[str(rank)] = {"host": host, "pid": pid}
        self._run.write_status(processes=self._processes)

    def workers(self) -> int:
        """How many have begun, of this training or of those that died in it."""
        return len(self._processes)

    def samples(self, records: list[dict[str, Any]]) -> None:
        """Keep predictions beside what was expected."""
        self._append("samples.jsonl", records)

    def _append(self, name: str, lines: list[dict[str, Any]]) -> None:
        # Opened each time, so that a full disk is the error of the call that met it.
        with (self._run.folder / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(storage.plain(line), ensure_ascii=False) + "\n" for line in lines)

    def predictions(self, number: int, table: pa.Table) -> None:
        """Take the predictions of a window of test rows, of which 0 is the first; they are written in their order."""
        self._early[number] = table
        while self._next in self._early:
            piece = self._early.pop(self._next)
            self._next += 1
            self._writer = self._writer or pq.ParquetWriter(self._draft, piece.schema)
            self._writer.write_table(piece)

    def results(self, results: dict[str, Any]) -> None:
        """Keep what the final test found for the driver; the predictions are whole."""
        if self._early:
            raise RuntimeError(f"predictions of window {self._next} never came")
        if self._writer is not None:
            self._close()
            self._draft.replace(self._run.folder / PREDICTIONS)
        self._results = results

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def found(self) -> dict[str, Any] | None:
        """What :meth:`results` was given; None when training ended before the final test."""
        return self._results

    def stop(self) -> None:
        """Ask for the end of training, after a checkpoint."""
        self._stopping = True

    def stopping(self) -> bool:
        """Whether training is to end."""
        return self._stopping


def _drop_torn_line(file: Path) -> None:
    """Cut off what a killed process was about to write, so that the next line does not grow onto it."""
    if file.exists():
        whole = file.read_bytes().rfind(b"\n") + 1
        os.truncate(file, whole)


def open_journal(folder: Path) -> Any:
    """A handle of the journal of ``folder``, on this node; every call of it returns once the line is on disk."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Journal).options(num_cpus=0, scheduling_strategy=here).remote(folder)
