"""Runs as their folders tell of them, without the process that writes there: list, look, follow, delete.

Works on any machine that sees the folders, while training goes on and long after.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from rayclf import storage
from rayclf.errors import OutputError
from rayclf.training.comparison import metrics_of, settings_of
from rayclf.training.heartbeat import SILENT, last_beat
from rayclf.training.run import RUN, Run
from rayclf.training.tail import Tail

State = Literal["running", "done", "stopped", "failed", "unreadable"]


@dataclass(frozen=True)
class RunSummary:
    """What a run folder tells. ``state`` is ``stopped`` where training was, by hand or by a death (see ``error``).

    Times are ISO 8601 in UTC, ``seconds`` and ``seconds_left`` durations; ``step`` counts optimiser steps of ``steps``,
    ``epoch`` of ``epochs``. ``metrics`` holds the numbers of each part: those of the artifact, before there is one
    those of the last evaluation. What the folder does not tell is None.
    """

    folder: str
    state: State
    error: str | None = None
    data: str | None = None
    backbone: str | None = None
    host: str | None = None
    started: str | None = None
    ended: str | None = None
    seconds: float | None = None
    seconds_left: float | None = None
    step: int | None = None
    steps: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    resumed: int = 0
    metric: str | None = None
    metrics: Mapping[str, Mapping[str, float]] | None = None


def open_run(folder: str | os.PathLike[str]) -> Run:
    """The run in ``folder``; raises OutputError when there is none."""
    place = storage.local_path(folder, "RUN")
    if not RUN.is_in(place):
        raise OutputError(f"{os.fspath(folder)}: not a run; 'rayclf runs list FOLDER' shows those below a folder")
    return Run(place)


def find_runs(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders of all runs in and below ``folder``, sorted; hidden folders are passed over.

    Raises OutputError when there is no such folder.
    """
    top = storage.local_path(folder, "FOLDER")
    if not top.is_dir():
        raise OutputError(f"{os.fspath(folder)}: no such folder; give the one that holds the runs")
    found = []
    for place, below, _ in os.walk(top):
        if RUN.is_in(Path(place)):
            found.append(Path(place))
            below.clear()  # a run holds no runs, but many files
        below[:] = [name for name in below if not name.startswith(".")]
    return sorted(found)


def state_of(run: Run, now: float | None = None) -> tuple[State, str | None]:
    """The state of a run at ``now`` (seconds since 1970, by default the present), and what ended it.

    A status that says ``running`` is believed for a minute after the last sign of life, the heartbeat or the status
    itself, on whatever machine the training is: process ids mean nothing across machines and containers.
    """
    status = run.status
    state, error = cast("State", status["state"]), status.get("error")
    if state != "running":
        return state, error
    heard = max(last_beat(run.folder) or 0.0, _seconds(status["updated"]))
    if (time.time() if now is None else now) - heard < SILENT:
        return state, None
    since = datetime.fromtimestamp(heard, UTC).isoformat(timespec="seconds")
    where = f"process {status.get('pid')} on {status.get('host')}"
    return "stopped", f"no word from {where} since {since}: it died; --resume goes on"


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def summary(run: Run, now: float | None = None) -> RunSummary:
    """What the folder of ``run`` tells at ``now``; one that cannot be read has the state ``unreadable``."""
    now = time.time() if now is None else now
    try:
        status, config = run.status, settings_of(run)
        state, error = state_of(run, now)
        began = _seconds(status["started"])
        ended = status.get("ended") if state != "running" else None
        last = now if state == "running" else _seconds(ended or status["updated"])
        rows, batch = status.get("rows", {}).get("train"), config.get("train.batch_size")
        epochs = status.get("epochs")
        steps = epochs * -(-rows // batch) if rows and batch and epochs else None
        step = status.get("step")
        return RunSummary(
            folder=str(run.folder),
            state=state,
            error=error,
            **{name: status.get(name) for name in ("data", "backbone", "host", "started", "epoch", "epochs")},
            ended=ended,
            seconds=max(0.0, last - began),
            seconds_left=_left(run, step, steps) if state == "running" and step and steps else None,
            step=step,
            steps=steps,
            resumed=status.get("resumed", 0),
            metric=config.get("train.metric"),
            metrics=metrics_of(run),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as failure:
        return RunSummary(str(run.folder), "unreadable", f"{type(failure).__name__}: {' '.join(str(failure).split())}")


def _left(run: Run, step: int, steps: int) -> float | None:
    """Seconds until the last step at the pace of the last steps, evaluations between them included."""
    recent = [line for line in run.lines if line["kind"] == "step"][-200:]
    if len(recent) < 2 or (done := recent[-1]["step"] - recent[0]["step"]) < 1:
        return None
    return float((recent[-1]["time"] - recent[0]["time"]) / done * max(0, steps - step))


def follow(
    run: Run, past: int = 10, every: float = 1.0, sleep: Callable[[float], None] = time.sleep
) -> Iterator[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` as they are written, after the ``past`` last ones, looked for ``every`` seconds.

    Ends with ``{"kind": "ended", "state": …, "error": …}`` once the run is no longer at work, even if it died without
    a word. Raises OutputError when the run is deleted meanwhile.
    """
    tail = Tail(run.folder / "metrics.jsonl")
    lines = tail.read()
    yield from lines[len(lines) - past :] if past < len(lines) else lines
    while True:
        try:
            state, error = state_of(run)  # before the lines, or the last of them might be missed
        except FileNotFoundError:
            raise OutputError(f"{run.folder}: was deleted while it was followed") from None
        yield from tail.read()
        if state != "running":
            yield {"kind": "ended", "state": state, "error": error}
            return
        sleep(every)


def check_idle(run: Run) -> None:
    """Raise OutputError while a training is at work in the folder of ``run``."""
    if state_of(run)[0] == "running":
        status = run.status
        where = f"process {status.get('pid')} on {status.get('host')}"
        raise OutputError(f"{run.folder}: {where} is training there, or died within a minute; stop it first")


def delete(folder: str | os.PathLike[str]) -> None:
    """Delete the run in ``folder`` with its artifact and checkpoints.

    Raises OutputError when it is not a run, is a link, or is at work.
    """
    run = open_run(folder)
    check_idle(run)
    place = Path(os.path.abspath(run.folder))
    if place.is_symlink():
        raise OutputError(f"{os.fspath(folder)}: is a link; name the folder of the run itself")
    # Hidden first and at once, so that nobody meets half a run.
    grave = place.with_name(f".{place.name}.deleted-{os.getpid()}")
    place.rename(grave)
    shutil.rmtree(grave)
