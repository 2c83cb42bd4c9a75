"""Which checkpoints of a run are whole, and what of them is litter: Ray Train keeps the list, in one file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from rayclf import storage
from rayclf.training.run import Run

CHECKPOINTS = "checkpoints"
_LIST = "checkpoint_manager_snapshot.json"  # Ray Train's, of the checkpoints that are whole
_COPY = "checkpoints.json"


class CopyList(UserCallback):  # type: ignore[misc]  # Ray's class is untyped
    """Copies Ray Train's list of checkpoints, whole, after each change.

    Ray 2.60 writes the list in place: a full disk or a power cut leaves it empty, and the training could go on from
    none of its checkpoints. It deletes an old checkpoint only after the list was written, so all that the copy of the
    list before names are still there then.
    """

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        """What Ray's controller calls when all workers have reported; raises StorageError when the disk is full."""
        if checkpoint is None:
            return
        folder = Path(checkpoint.path).parent
        with storage.write_whole(folder / _COPY) as file:
            file.write((folder / _LIST).read_bytes())


def mend_list(run: Run) -> None:
    """Put the copy in the place of a list that was written in part; without one, training begins anew."""
    folder = run.folder / CHECKPOINTS
    if not (folder / _LIST).exists() or _read(folder / _LIST) is not None:
        return
    if _read(folder / _COPY) is None:
        (folder / _LIST).unlink()
        return
    with storage.write_whole(folder / _LIST) as file:
        file.write((folder / _COPY).read_bytes())


def prune_checkpoints(run: Run) -> None:
    """Delete checkpoints that were never finished, such as those that the disk had no room for."""
    folder = run.folder / CHECKPOINTS
    snapshot = _read(folder / _LIST) or _read(folder / _COPY) or {}
    records = [*snapshot.get("checkpoint_results", ()), snapshot.get("latest_checkpoint_result") or {}]
    known = {record.get("checkpoint_dir_name") for record in records}
    for child in folder.glob("checkpoint_*"):
        if child.is_dir() and child.name not in known:
            shutil.rmtree(child, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    """The list, None when it is missing or was not written to its end."""
    try:
        snapshot: dict[str, Any] = storage.read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return snapshot
