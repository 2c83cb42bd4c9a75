"""The run folder's scribe: an actor beside the driver that writes down what the workers, on any node, report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayclf import storage
from rayclf.training.run import Run


class Journal:
    """Appends to ``metrics.jsonl`` and keeps the progress in ``status.json``, at most once a second."""

    def __init__(self, folder: Path) -> None:
        self._run = Run(folder)
        self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._stamped = 0.0

    def event(self, event: dict[str, Any]) -> None:
        """Write one line; an event with a ``step`` is progress as well."""
        self._lines.write(json.dumps(storage.plain({"time": round(time.time(), 3), **event})) + "\n")
        self._lines.flush()
        if time.monotonic() - self._stamped > 1 and "step" in event:
            self._stamped = time.monotonic()
            self._run.write_status(step=event["step"], epoch=event["epoch"])

    def predictions(self, table: pa.Table) -> None:
        """Write the test rows' ids, targets and probabilities."""
        with storage.write_whole(self._run.folder / "predictions.parquet") as file:
            pq.write_table(table, file)


def open_journal(folder: Path) -> Any:
    """A handle of the journal of ``folder``, on this node; every call of it returns once the line is on disk."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Journal).options(num_cpus=0, scheduling_strategy=here).remote(folder)
