"""How a scoring job fares, told by its output folder alone: running, dead or finished, on any machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rayclf.errors import OutputError
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.units import InputFile, count_units
from rayclf.storage_errors import shown

State = Literal["planned", "running", "done", "failed", "stopped"]
_SILENT = 60.0  # seconds without word from the driver after which it is taken for dead


@dataclass(frozen=True)
class Status:
    """The state of a job. ``stopped``: by hand, or no word from the driver for a minute; the same command goes on.

    ``seconds`` is the time in which units were being scored, over all runs; ``rows_per_second`` and ``seconds_left``
    are None where nothing tells them, ``dollars`` without a price.
    """

    output: str
    state: State
    units_done: int
    units: int
    rows_done: int
    rows: int
    errors: int
    tokens: int
    seconds: float
    rows_per_second: float | None
    seconds_left: float | None
    dollars: float | None


def saved_plan(manifest: Manifest) -> tuple[dict[str, Any], list[InputFile], int]:
    """The plan of an output, its input files, and the rows of a unit; raises OutputError for what is no output."""
    plan = manifest.saved()
    if plan is None:
        raise OutputError(f"{shown(manifest.output)}: not the output of rayclf score; check the folder's name")
    try:
        return plan, [InputFile.from_json(file) for file in plan["files"]], plan["rows_a_unit"]
    except (KeyError, TypeError):
        raise OutputError(
            f"{shown(manifest.output)}: planned by another version of rayclf; ask that version, or score it "
            "anew with --overwrite"
        ) from None


def status(output: str | os.PathLike[str], now: float | None = None) -> Status:
    """How the job of ``output`` fares at ``now``, a time in seconds since 1970, by default the present.

    The driver's last word (``_manifest/progress.json``: ``state``, ``time``, and perhaps ``rows_per_second``,
    ``dollars``, ``price_per_hour``) tells whether it lives and how fast it is; what is done is counted from the commit
    records.
    Raises OutputError for a folder that is no output.
    """
    manifest = Manifest(output)
    plan, files, size = saved_plan(manifest)
    word = manifest.progress()
    records = list(manifest.records())
    rows, done = sum(file.rows for file in files), sum(record["rows"] for record in records)
    units = count_units(files, size)
    seconds = busy_seconds((record["began"], record["ended"]) for record in records)
    state = _state(word, len(records) == units, bool(records), time.time() if now is None else now)
    rate = word.get("rows_per_second") if state == "running" else None
    rate = rate or (done / seconds if seconds else None)
    price = word.get("price_per_hour", plan.get("price_per_hour"))
    dollars = word.get("dollars")  # which counts starting and loading too
    if dollars is None and price is not None:
        dollars = price * seconds / 3600
    return Status(
        output=shown(output),
        state=state,
        units_done=len(records),
        units=units,
        rows_done=done,
        rows=rows,
        errors=sum(record["errors"] for record in records),
        tokens=sum(record["tokens"] for record in records),
        seconds=seconds,
        rows_per_second=rate,
        seconds_left=(rows - done) / rate if rate else None,
        dollars=dollars,
    )


def _state(word: Mapping[str, Any], complete: bool, begun: bool, now: float) -> State:
    if complete:
        return "done"
    if word.get("state") in ("failed", "stopped"):
        return "failed" if word["state"] == "failed" else "stopped"
    if not word and not begun:
        return "planned"
    return "running" if word.get("state") == "running" and now - word["time"] < _SILENT else "stopped"


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans of time, each from begin to end in seconds."""
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total
