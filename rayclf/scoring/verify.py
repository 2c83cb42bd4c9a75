"""Prove that the output of a scoring job is whole: every input row once, in files that are what their records say."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.data.extract import hash_texts
from rayclf.errors import OutputError
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.status import saved_plan
from rayclf.scoring.units import plan_units
from rayclf.storage_errors import failures, shown

_BUCKETS = 256  # of ids by their hash, one of which is held at a time
_AGAIN = "and run the same command again"


@dataclass(frozen=True)
class Report:
    """What was found whole: rows, units and files, the bytes that were read, and rows with an error."""

    rows: int
    errors: int
    units: int
    files: int
    bytes: int


def verify(output: str | os.PathLike[str], on_rows: Callable[[int, int], None] = lambda done, of: None) -> Report:
    """Check an output against its plan and records; raises OutputError that names the first thing wrong and its mend.

    Every unit of the plan has a record of its rows; every file of a record is there with its bytes, SHA-256 and rows;
    no other file of rows is there; no ``id`` comes twice; there are as many rows as in the input. All files are read
    once, a file at a time. Hashes of ids, 8 bytes each, go to temporary files, of which a 256th is held at a time:
    100 million rows need 800 MB of disk. ``on_rows`` gets the rows that were read and all of them.
    """
    manifest = Manifest(output)
    _, files, size = saved_plan(manifest)
    records = {record["unit"]: (path, record) for path, record in manifest.located()}
    units = plan_units(files, size)
    for unit in units:
        path, record = records.get(unit.name, ("", None))
        if record is None:
            raise OutputError(f"{shown(output)}: unit {unit.name} is not done; run the same command again")
        if record["rows"] != unit.rows or sum(file["rows"] for file in record["files"]) != unit.rows:
            raise OutputError(
                f"{shown(path)}: tells {record['rows']} rows of unit {unit.name}, the plan {unit.rows}; "
                f"{_mend(path, unit.name)}"
            )
    rows = sum(file.rows for file in files)
    if len(records) != len(units):
        planned = {unit.name for unit in units}
        name, (path, _) = next((name, found) for name, found in records.items() if name not in planned)
        raise OutputError(f"{shown(path)}: unit {name} is not in the plan; {_mend(path, name)}")
    _check_names(manifest, records)
    read = done = count = 0
    with _Ids() as ids:
        for path, record in records.values():
            for file in record["files"]:
                ids.add(_checked_ids(manifest, file, _mend(path, record["unit"])))
                read, done, count = read + file["bytes"], done + file["rows"], count + 1
                on_rows(done, rows)
        doubled = ids.doubled()
    if len(doubled):
        _name_double(manifest, records, doubled)
    return Report(rows, sum(record["errors"] for _, record in records.values()), len(records), count, read)


Records = Mapping[str, tuple[str, dict[str, Any]]]


def _mend(path: str, unit: str) -> str:
    """How to have a unit scored again: a batch of records holds those of other units too."""
    line = f"unit {unit}'s line in " if path.endswith(".jsonl") else ""
    return f"delete {line}{shown(path)} {_AGAIN}"


def _check_names(manifest: Manifest, records: Records) -> None:
    """Whether the files that are there are those of the records, in name and size."""
    there = {entry.name: entry for entry in manifest.parts()}
    for path, record in records.values():
        for file in record["files"]:
            entry = there.pop(file["path"], None)
            place, mend = shown(manifest.place(file["path"])), _mend(path, record["unit"])
            if entry is None:
                raise OutputError(f"{place}: is missing, or stands in two records; {mend}")
            if entry.info.size != file["bytes"]:
                raise OutputError(f"{place}: {entry.info.size} bytes, its record tells {file['bytes']}; {mend}")
    for entry in there.values():
        raise OutputError(f"{shown(entry.path)}: stands in no record; delete it")


def _checked_ids(manifest: Manifest, file: Mapping[str, Any], mend: str) -> pa.ChunkedArray:
    """The ids of a file that is what its record says."""
    path = manifest.place(file["path"])
    filesystem, inner = storage.resolve(path)
    try:
        with failures(path), filesystem.open_input_stream(inner, compression=None) as stream:
            content = stream.read()
    except FileNotFoundError:
        raise OutputError(f"{shown(path)}: is missing; {mend}") from None
    if hashlib.sha256(content).hexdigest() != file["sha256"]:
        raise OutputError(f"{shown(path)}: its SHA-256 is not that of its record; {mend}")
    try:
        ids = pq.read_table(io.BytesIO(content), columns=["id"])["id"]
    except (pa.ArrowException, OSError, KeyError):
        raise OutputError(f"{shown(path)}: not a Parquet file with a column 'id'; {mend}") from None
    if len(ids) != file["rows"]:
        raise OutputError(f"{shown(path)}: {len(ids)} rows, its record tells {file['rows']}; {mend}")
    return ids


class _Ids:
    """Hashes of ids in temporary files by their first byte, so that equal ones lie in one file."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._buckets: list[IO[bytes]] = []

    def __enter__(self) -> _Ids:
        for _ in range(_BUCKETS):
            self._buckets.append(self._stack.enter_context(tempfile.TemporaryFile()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, ids: pa.ChunkedArray) -> None:
        """Note the ids of a file."""
        hashes = np.sort(hash_texts(ids.to_pylist()))
        ends = np.searchsorted(hashes >> np.uint64(56), np.arange(_BUCKETS + 1, dtype=np.uint64))
        for bucket, start, end in zip(self._buckets, ends[:-1], ends[1:], strict=True):
            if end > start:
                bucket.write(hashes[start:end].tobytes())

    def doubled(self) -> npt.NDArray[np.uint64]:
        """Hashes that came more than once: of an id that is doubled, or, once in 10^4 jobs of 10^8 rows, of two."""
        found = []
        for bucket in self._buckets:
            bucket.seek(0)
            hashes = np.sort(np.frombuffer(bucket.read(), np.uint64))
            found.append(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]))
        return np.concatenate(found)


def _name_double(manifest: Manifest, records: Records, doubled: npt.NDArray[np.uint64]) -> None:
    """Raise OutputError for the first id that comes twice; does nothing where only hashes are the same."""
    seen: dict[str, str] = {}
    for identity, place in _with_hash(manifest, records, doubled):
        if identity in seen:
            raise OutputError(
                f"{shown(place)}: the id {identity!r} is also in {shown(seen[identity])}; make the "
                "ids of the input unique, or rename its column 'id', and score it anew with --overwrite"
            )
        seen[identity] = place


def _with_hash(manifest: Manifest, records: Records, wanted: npt.NDArray[np.uint64]) -> Iterator[tuple[str, str]]:
    for path, record in records.values():
        for file in record["files"]:
            ids = _checked_ids(manifest, file, _mend(path, record["unit"])).to_pylist()
            for position in np.flatnonzero(np.isin(hash_texts(ids), wanted)):
                yield ids[position], manifest.place(file["path"])
