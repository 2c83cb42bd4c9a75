"""The run folder: one training job on disk, readable without the process that writes it.

config.yaml  labels.json  status.json  heartbeat.json  metrics.jsonl  samples.jsonl  checkpoints/  artifact/
predictions.parquet  curves.json  mistakes.json  report.html  charts/  data/ with dataset.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rayclf import storage
from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.errors import ConfigError, DamagedFileError, one_line
from rayclf.labels import LabelSpace

NOTHING = -1  # the step that training resumes after when it begins again: not even the evaluation at step 0 counts


@dataclass(frozen=True)
class Kind:
    """What a folder may hold, a run or a search: its name, and the files that make it one; the last tells its state."""

    name: str
    marks: tuple[str, ...]

    def is_in(self, folder: Path) -> bool:
        """Whether ``folder`` holds one, in whatever state."""
        return all((folder / mark).is_file() for mark in self.marks)


RUN = Kind("run", ("config.yaml", "status.json"))


@dataclass(frozen=True, init=False)
class Run:
    """A training run and what it left: ``artifact`` is the finished classifier, ``metrics`` those of each part."""

    folder: Path

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """The run in ``folder``, which is read when something of it is asked for."""
        object.__setattr__(self, "folder", Path(folder))

    @property
    def artifact(self) -> Path:
        """The artifact of the best checkpoint."""
        return self.folder / "artifact"

    @property
    def config(self) -> Config:
        """The settings that the run began with, what was left open filled in; raises ConfigError when they are not
        whole."""
        place = self.folder / "config.yaml"
        config = load_config(place)
        for name in Config.model_fields:
            if name not in config.model_fields_set:
                raise ConfigError(f"{place}: damaged, no section '{name}'; put it back from a copy")
        return config

    @property
    def status(self) -> dict[str, Any]:
        """``state`` (running, done, stopped, failed), progress and times."""
        return dict(storage.read_json(self.folder / "status.json"))

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Metrics by part (``validation`` of the best checkpoint, ``test``)."""
        return dict(storage.read_json(self.artifact / "rayclf.json")["metrics"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All whole lines of ``metrics.jsonl``: steps, evaluations, and where training was resumed.

        Raises DamagedFileError for one that is not JSON.
        """
        file = self.folder / "metrics.jsonl"
        content = file.read_bytes() if file.exists() else b""
        found = []
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            if line.endswith(b"\n"):
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    told = f"line {number} is damaged, not JSON ({one_line(error)}); delete it"
                    raise DamagedFileError(f"{file}: {told}") from None
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        """The steps and evaluations that made the classifier: not those that an interruption undid."""
        events: list[dict[str, Any]] = []
        for line in self.lines:
            if line["kind"] == "resumed":
                events = [event for event in events if event["step"] <= line["step"]]
            else:
                events.append(line)
        return events

    @property
    def reached(self) -> dict[str, int]:
        """``step`` and ``epoch`` of the last step on record; empty before the first."""
        last = next((event for event in reversed(self.events) if event["kind"] == "step"), None)
        return {name: last[name] for name in ("step", "epoch")} if last else {}

    def write_status(self, **fields: Any) -> None:
        """Lay ``fields`` over ``status.json`` and stamp the time."""
        old = self.status if (self.folder / "status.json").exists() else {}
        storage.write_json(self.folder / "status.json", old | fields | {"updated": now()})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def create_run(folder: Path, config: Config, space: LabelSpace, facts: Mapping[str, Any]) -> Run:
    """Lay out the folder of a new run, which is empty or missing."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    with storage.write_whole(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    storage.write_json(folder / "labels.json", space.to_json())
    run.write_status(state="running", started=now(), pid=os.getpid(), host=os.uname().nodename, **facts)
    return run
