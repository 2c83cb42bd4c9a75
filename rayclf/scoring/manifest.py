"""The manifest: what a scoring job is, and which of its units are done, told by the output folder alone.

part-<unit>.parquet           the scored rows of a unit, whole
_manifest/plan.json           input files, artifact and settings: what must not change on a resume
_manifest/units/<unit>.json   the commit record, written after the unit's file
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayclf import storage
from rayclf.errors import OutputError

FORMAT = 1


class Manifest:
    """The manifest of one output folder."""

    def __init__(self, output: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is touched. Raises UserError for a remote one."""
        self.output = storage.local_path(output, "OUTPUT")
        self.plan_file = self.output / "_manifest" / "plan.json"
        self.records = self.output / "_manifest" / "units"

    def open(self, plan: Mapping[str, Any], overwrite: bool) -> set[str]:
        """Begin the job of ``plan``, or go on with it; returns the names of the units that are done.

        Raises OutputError when the folder holds something else, or another job: the difference is named.
        """
        if self.output.is_file():
            raise OutputError(f"{self.output}: is a file; OUTPUT must name a folder")
        filled = self.output.is_dir() and any(self.output.iterdir())
        if filled and not self.plan_file.is_file():
            raise OutputError(f"{self.output}: exists and is not the output of rayclf score; choose another OUTPUT")
        if filled and overwrite:
            shutil.rmtree(self.output)
            filled = False
        if filled:
            self._compare(storage.read_json(self.plan_file), plan)
        else:
            self.records.mkdir(parents=True, exist_ok=True)
            storage.write_json(self.plan_file, plan)
        return {file.stem for file in self.records.glob("*.json")}

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key):
                told = (
                    "the input files changed" if key == "files" else f"{key} is {new.get(key)!r}, was {old.get(key)!r}"
                )
                raise OutputError(
                    f"{self.output}: holds another job: {told}; choose another OUTPUT or pass --overwrite"
                )

    def part(self, unit: str) -> Path:
        """Where the scored rows of a unit go."""
        return self.output / f"part-{unit}.parquet"

    def commit(self, unit: str, record: Mapping[str, Any]) -> None:
        """Mark a unit, whose file is in its place, as done."""
        storage.write_json(self.records / f"{unit}.json", record)

    def totals(self) -> dict[str, int]:
        """Rows, errors and tokens over all units that are done."""
        records = [storage.read_json(file) for file in sorted(self.records.glob("*.json"))]
        return {name: sum(record[name] for record in records) for name in ("rows", "errors", "tokens")}
