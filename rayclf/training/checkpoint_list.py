"""Which checkpoints of a run are whole, and what of them is litter: Ray Train keeps the list, in one file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from rayclf import storage
from rayclf.training.checkpoints import is_whole
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


def mend_list(run: Run) -> list[str]:
    """Make the list one that training can go on from: the copy takes the place of one that was written in part, and
    checkpoints that are damaged or gone, whose names are returned, are taken off. With none left, training begins anew.
    """
    folder = run.folder / CHECKPOINTS
    if not (folder / _LIST).exists():
        return []
    found = _read(folder / _LIST) or _read(folder / _COPY) or {}
    numbered = list(zip(found.get("checkpoint_results", ()), found.get("checkpoint_report_indices", ()), strict=True))
    whole = [one for one in numbered if is_whole(folder / one[0]["checkpoint_dir_name"])]
    if whole:
        latest, _ = max(whole, key=lambda one: one[1])
        results, indices = (list(column) for column in zip(*whole, strict=True))
        mended = {"checkpoint_results": results, "checkpoint_report_indices": indices}
        storage.write_json(folder / _LIST, found | mended | {"latest_checkpoint_result": latest})
    else:
        for name in (_LIST, _COPY):
            (folder / name).unlink(missing_ok=True)
    kept = [record for record, _ in whole]
    return [record["checkpoint_dir_name"] for record, _ in numbered if record not in kept]


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
