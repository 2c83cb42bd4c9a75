"""The manifest: what a scoring job is, and which of its units are done, told by the output folder alone.

part-<unit>.parquet                  the scored rows of a unit, whole; in folders such as label=x if so asked
_manifest/plan.json                  input files, artifact and settings: what must not change on a resume
_manifest/units/<unit>.json          the commit record, written after the unit's files
_manifest/units/batch-<name>.jsonl   records of many units, one a line, put in the place of their own files
_manifest/progress.json              how the job fares, written by its driver every few seconds
_manifest/summary.json               what it did, written at its end

The folder is local or in an object store. Files appear whole, and a file is deleted only when what it says is said
elsewhere, so that the folder tells the truth whenever a process dies.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.errors import OutputError
from rayclf.storage_errors import failures, shown

FORMAT = 2
FREE = ("price_per_hour",)  # what may change from one run of a job to the next
_AT_ONCE = 16  # requests under way
_HELD = 64  # files of records in memory at a time, of up to 1,000 records each
_PASSES = 3  # over the records: while a job runs, some that were listed may be in a new batch when they are read
_STALE = 600  # seconds after which a draft has no writer any more


class Manifest:
    """The manifest of one output folder, a path or a URI."""

    def __init__(self, output: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is touched."""
        self.output = os.fspath(output)
        self.units = self.place("_manifest/units")

    def place(self, name: str) -> str:
        """The path or URI of what lies at ``name`` below the folder, as records name files."""
        return storage.join(self.output, storage.spelled(name) if "://" in self.output else name)

    def saved(self) -> dict[str, Any] | None:
        """The plan of the job whose output this is, None where there is none."""
        try:
            plan = storage.read_json(self.place("_manifest/plan.json"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            plan = None
        if not isinstance(plan, dict):
            raise OutputError(f"{self.place('_manifest/plan.json')}: damaged; choose another OUTPUT")
        return plan

    def open(self, plan: Mapping[str, Any], overwrite: bool) -> set[str]:
        """Begin the job of ``plan``, or go on with it; returns the names of the units that are done.

        Raises OutputError when the folder holds something else, or another job: the difference is named.
        """
        if storage.kind(self.output) == "file":
            raise OutputError(f"{shown(self.output)}: is a file; OUTPUT must name a folder")
        old = self.saved()
        if old is None and (self._entries() or self._entries("_manifest/units")):
            raise OutputError(
                f"{shown(self.output)}: exists and is not the output of rayclf score; choose another OUTPUT"
            )
        if old is not None and overwrite:
            self._delete()
            old = None
        if old is None:
            storage.write_json(self.place("_manifest/plan.json"), plan)
            return set()
        self._compare(old, json.loads(json.dumps(storage.plain(plan))))
        self._sweep()
        return {record["unit"] for record in self.records()}

    def _compare(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        for key in dict.fromkeys([*old, *new]):
            if old.get(key) != new.get(key) and key not in FREE:
                told = f"{key} is {_brief(new.get(key))}, was {_brief(old.get(key))}"
                if key == "files":
                    told = f"the input files changed: {_changed_file(old.get(key) or [], new.get(key) or [])}"
                raise OutputError(
                    f"{shown(self.output)}: holds another job: {told}; choose another OUTPUT or pass --overwrite"
                )

    def _delete(self) -> None:
        """Take away a job's files, and no other. The plan goes last, and records before the files they speak of: what
        a death leaves is the old job with fewer units done."""
        storage.delete_files(entry.path for entry in self._entries("_manifest/units"))
        storage.delete_files(entry.path for entry in self.parts())
        storage.delete_files(self.place(f"_manifest/{name}.json") for name in ("summary", "progress", "plan"))

    def _sweep(self) -> None:
        """Delete the drafts of writers that were killed; an object store keeps none."""
        if "://" not in self.output:
            for draft in Path(self.output).rglob(".*.tmp"):
                if draft.is_file() and time.time() - draft.stat().st_mtime > _STALE:
                    draft.unlink(missing_ok=True)

    def _entries(self, folder: str = "") -> list[storage.Entry]:
        try:
            return storage.entries(self.place(folder) if folder else self.output)
        except FileNotFoundError:
            return []

    def parts(self) -> list[storage.Entry]:
        """The files of scored rows, committed or not."""
        return [
            entry
            for entry in self._entries()
            if posixpath.basename(entry.name).startswith("part-") and entry.name.endswith(".parquet")
        ]

    # --- units ---

    def part_name(self, unit: str, partition: str = "") -> str:
        """Where the scored rows of a unit go below the folder; ``partition`` is a folder such as ``label=x``."""
        return f"{partition}/part-{unit}.parquet" if partition else f"part-{unit}.parquet"

    def part(self, unit: str, partition: str = "") -> str:
        """The path or URI of :meth:`part_name`."""
        return self.place(self.part_name(unit, partition))

    def write_part(self, unit: str, table: pa.Table, partition: str = "") -> dict[str, Any]:
        """Write a file of scored rows, whole or not at all; returns its entry of the commit record's ``files``."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        content = buffer.getbuffer()
        with storage.write_whole(self.part(unit, partition)) as file:
            file.write(content)
        return {
            "path": self.part_name(unit, partition),
            "rows": table.num_rows,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def commit(self, unit: str, record: Mapping[str, Any]) -> None:
        """Mark a unit, whose files are in their places, as done."""
        _write(self.place(f"_manifest/units/{unit}.json"), [{**record, "unit": unit}])

    def fold(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Put one file in the place of those of many units that are done: a million small files are slow to read.

        Whoever drives the job calls this for every 1,000 records or so that it has got.
        """
        _write(self.place(f"_manifest/units/batch-{uuid.uuid4().hex}.jsonl"), records)
        storage.delete_files(self.place(f"_manifest/units/{record['unit']}.json") for record in records)

    def located(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The records, each unit's once, and the file that each is in; raises OutputError for a damaged one."""
        seen, read = set[str](), set[str]()
        for _ in range(_PASSES):
            entries = self._entries("_manifest/units")
            paths = [e.path for e in entries if e.name.endswith((".json", ".jsonl")) and e.path not in read]
            if not paths:
                break
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for start in range(0, len(paths), _HELD):
                    some = paths[start : start + _HELD]
                    for path, records in zip(some, pool.map(_read, some), strict=True):
                        new = [record for record in records if record["unit"] not in seen]
                        seen.update(record["unit"] for record in new)
                        yield from ((path, record) for record in new)
            read.update(paths)

    def records(self) -> Iterator[dict[str, Any]]:
        """The commit records of the units that are done."""
        return (record for _, record in self.located())

    def totals(self) -> dict[str, int]:
        """Rows, errors and tokens over all units that are done."""
        totals = dict.fromkeys(("rows", "errors", "tokens"), 0)
        for record in self.records():
            for name in totals:
                totals[name] += record[name]
        return totals

    def drop_strays(self) -> None:
        """Delete the files of rows that stand in no record, of units that have one.

        A unit that died between its files and its record may have been scored again on another kind of processor, by
        which a row has another label: where it was the only one of its partition, its first file is still there.
        """
        done, recorded = set[str](), set[str]()
        for record in self.records():
            done.add(self.part_name(record["unit"]))
            recorded.update(file["path"] for file in record["files"])
        strays = (e for e in self.parts() if posixpath.basename(e.name) in done and e.name not in recorded)
        storage.delete_files(entry.path for entry in strays)

    # --- the job ---

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Tell how the job fares: ``state`` (running, done, failed) and what else :mod:`.status` reads."""
        _write(self.place("_manifest/progress.json"), [{"time": time.time(), **progress}])

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Tell what the job did, at its end."""
        storage.write_json(self.place("_manifest/summary.json"), summary)

    def progress(self) -> dict[str, Any]:
        """What was written last by :meth:`write_progress`; empty where nothing was."""
        try:
            value: dict[str, Any] = storage.read_json(self.place("_manifest/progress.json"))
        except (FileNotFoundError, ValueError):
            return {}
        return value


def _brief(value: Any) -> str:
    """A setting as an error tells it: of an artifact, which is known by the SHA-256 of its content, the beginning."""
    return f"another one ({value[:12]}…)" if isinstance(value, str) and len(value) == 64 else repr(value)


def _changed_file(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> str:
    """The first file that is not as it was, and how."""
    was, now = {file["path"]: file for file in old}, {file["path"]: file for file in new}
    for path in dict.fromkeys([*was, *now]):
        if path not in now:
            return f"{shown(path)} is no longer among them"
        if path not in was:
            return f"{shown(path)} is new"
        for key in ("size", "modified_ns", *was[path]):
            if was[path].get(key) != now[path].get(key):
                values = f" ({was[path].get(key)}, now {now[path].get(key)})" if key in ("size", "rows") else ""
                return f"{shown(path)} has another {key}{values}"
    return "their order"


def _write(path: str, records: Iterable[Mapping[str, Any]]) -> None:
    with storage.write_whole(path) as file:
        for record in records:
            file.write((json.dumps(storage.plain(record), ensure_ascii=False) + "\n").encode())


def _read(path: str) -> list[dict[str, Any]]:
    """The records of a file; none of one that was folded into a batch since it was listed."""
    filesystem, inner = storage.resolve(path)
    try:
        with failures(path), filesystem.open_input_stream(inner, compression=None) as file:
            records = [json.loads(line) for line in file.read().splitlines()]
    except FileNotFoundError:
        return []
    except ValueError:
        records = [None]
    if not all(isinstance(record, dict) and "unit" in record for record in records):
        raise OutputError(f"{shown(path)}: damaged record; delete it and run the same command again")
    return records
