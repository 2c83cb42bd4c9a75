"""A prepared data set on disk: what training reads, and the record of where every row came from and went.

dataset.json       sources with sizes and versions, settings, seed, counts, content hash
labels.json        the label space
quarantine.jsonl   rows that were set aside, with file, row and reason
data/train/…       canonical rows in Parquet; so data/validation/ and data/test/ where there are such parts
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from rayclf import storage
from rayclf.data.formats import PARQUET_ERRORS, first_line
from rayclf.data.texts import TextSource
from rayclf.data.weights import LabelCounts
from rayclf.errors import DamagedFileError, DataError, LabelError, one_line
from rayclf.labels import LabelSpace
from rayclf.storage_errors import failure, shown

T = TypeVar("T")

RECORD = "dataset.json"
LABELS = "labels.json"
QUARANTINE = "quarantine.jsonl"
PARTS = ("train", "validation", "test")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SourceRecord(_Record):
    """One input file as it was read: its version is the object store's ETag, or the time of change in ns."""

    path: str
    size: int
    version: str
    rows: int


class FileRecord(_Record):
    """One Parquet file of a part, its path below the data set."""

    path: str
    rows: int
    sha256: str


class PartRecord(_Record):
    """A part's files, and in how many of its rows each label holds and is unknown, in label order."""

    rows: int
    files: list[FileRecord]
    positive: list[int]
    unknown: list[int]


class DatasetRecord(_Record):
    """``dataset.json``. ``read`` rows are ``kept`` and ``quarantined`` ones together; ``parts`` may hold fewer or more
    than were kept where the training part was downsampled or rebalanced."""

    format: Literal[1] = 1
    sources: list[SourceRecord]
    test_sources: list[SourceRecord] = []
    reads: TextSource
    label: str
    settings: dict[str, Any]
    seed: int
    read: int
    kept: int
    quarantined: int
    reasons: dict[str, int] = {}
    rebalanced: dict[str, dict[str, float]] = {}
    hints: list[str] = []
    parts: dict[str, PartRecord]
    content_sha256: str
    created: str
    version: str


class Dataset:
    """A prepared data set; ``record`` is what ``dataset.json`` says."""

    def __init__(self, folder: str, record: DatasetRecord, space: LabelSpace) -> None:
        self.folder, self.record, self.space = folder, record, space

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Dataset:
        """Read a prepared data set's record; raises DataError when it is damaged or of a later format.

        Its ``folder`` becomes absolute: training workers are at work in another one.
        """
        if "://" not in os.fspath(folder):
            folder = storage.resolve(folder)[1]
        record = _load(storage.join(folder, RECORD), DatasetRecord.model_validate)
        space = _load(storage.join(folder, LABELS), LabelSpace.from_json)
        return cls(os.fspath(folder), record, space)

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each part."""
        return {name: part.rows for name, part in self.record.parts.items()}

    def counts(self, part: str = "train") -> LabelCounts:
        """In how many rows of a part each label holds and is unknown."""
        found = self.record.parts[part]
        as_array: npt.NDArray[np.int64] = np.array(found.positive, np.int64)
        return LabelCounts(found.rows, as_array, np.array(found.unknown, np.int64))

    def files(self, part: str) -> list[str]:
        """The Parquet files of a part."""
        return [storage.join(self.folder, *file.path.split("/")) for file in self.record.parts[part].files]

    def batches(self, part: str, rows: int = 8192) -> Iterator[pa.Table]:
        """The part's canonical rows in order, a few at a time."""
        for path in self.files(part):
            with _opened(path) as file:
                for batch in file.iter_batches(batch_size=rows):
                    yield pa.Table.from_batches([batch])

    def read(self, part: str, start: int = 0, stop: int | None = None) -> pa.Table:
        """The canonical rows ``start`` to ``stop`` of a part, all unless told, in memory."""
        stop = self.rows[part] if stop is None else stop
        pieces, first = [], 0
        for file, path in zip(self.record.parts[part].files, self.files(part), strict=True):
            if first < stop and first + file.rows > start:
                pieces.append(_read_rows(path, max(0, start - first), min(file.rows, stop - first)))
            first += file.rows
        return pa.concat_tables(pieces).combine_chunks()


def _load(place: str, make: Callable[[Any], T]) -> T:
    """What the JSON file at ``place`` stands for; raises DataError when it is damaged."""
    try:
        return make(storage.read_json(place))
    except DamagedFileError as error:
        raise DataError(f"{error}, or prepare the data again") from None
    except (ValueError, KeyError, TypeError, OSError, LabelError) as error:
        told = f"damaged, or written by a later rayclf ({one_line(error)}); prepare the data again"
        raise DataError(f"{shown(place)}: {told}") from None


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of a part; raises DataError when it is gone or damaged, StorageError as its storage fails."""
    filesystem, inner = storage.resolve(path)
    try:
        with pq.ParquetFile(inner, filesystem=filesystem) as file:
            yield file
    except PARQUET_ERRORS as error:
        if "://" in path and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise failure(path, error) from None
        raise DataError(f"{shown(path)}: gone or damaged ({first_line(error)}); prepare the data again") from None


def _read_rows(path: str, start: int, stop: int) -> pa.Table:
    """Rows ``start`` to ``stop`` of a Parquet file, of which only the row groups that hold them are read."""
    with _opened(path) as file:
        groups: list[int] = []
        skipped = first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if first < stop and first + rows > start:
                skipped = skipped if groups else start - first
                groups.append(group)
            first += rows
        return file.read_row_groups(groups).slice(skipped, stop - start)


def content_hash(parts: Mapping[str, PartRecord]) -> str:
    """SHA-256 over the hashes of all files: the same where the same rows were written in the same order."""
    lines = sorted(f"{file.sha256}  {file.path}\n" for part in parts.values() for file in part.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_dataset(place: str | os.PathLike[str]) -> bool:
    """Whether ``place`` is a folder that was prepared."""
    return storage.kind(storage.join(place, RECORD)) == "file"
