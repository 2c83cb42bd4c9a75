"""One part of a prepared data set as Parquet files, its rows mixed on the way where that is asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.data.dataset import FileRecord

_FILE_ROWS = 65_536  # rows of a file, and the most that are mixed in memory: 30 MB of texts of 400 characters
_GROUP_ROWS = 2048  # rows of a row group, which one task of the training stream reads


class PartWriter:
    """Writes ``rows`` rows below ``folder/data/<part>/``.

    With a ``seed`` they are mixed over the whole part in bounded memory: each row is sent to a file by chance as it
    comes, and each file is mixed when it is complete (a shuffle in two passes, as Sanders 1998 describes it).
    """

    def __init__(self, folder: Path, part: str, rows: int, seed: int | None) -> None:
        self._folder, self._place = folder, folder / "data" / part
        self._place.mkdir(parents=True)
        self._random = np.random.default_rng(seed) if seed is not None else None
        self._count = max(1, -(-rows // _FILE_ROWS))
        self._drafts: dict[int, pq.ParquetWriter] = {}

        self._scratch = tempfile.TemporaryDirectory(dir=self._place)
        self._schema: pa.Schema | None = None

    def write(self, table: pa.Table, rows: npt.NDArray[np.int64]) -> None:
        """Add the ``rows`` of a table of canonical rows, by position; one may stand several times."""
        self._schema = table.schema
        if not len(rows):
            return
        if self._random is None:
            self._append(0, table.take(pa.array(rows)))
            return
        targets = self._random.integers(self._count, size=len(rows))
        for target in np.unique(targets):
            self._append(int(target), table.take(pa.array(rows[targets == target])))

    def _append(self, file: int, table: pa.Table) -> None:
        if file not in self._drafts:
            place = Path(self._scratch.name) / f"{file}.parquet"
            self._drafts[file] = pq.ParquetWriter(place, table.schema, compression="zstd")
        self._drafts[file].write_table(table, row_group_size=_GROUP_ROWS)

    def close(self) -> list[FileRecord]:
        """Complete the files; returns them in order."""
        files = []
        for number in range(self._count if self._schema is not None else 0):
            target = self._place / f"part-{number:05d}.parquet"
            if number in self._drafts:
                self._drafts[number].close()
                draft = Path(self._scratch.name) / f"{number}.parquet"
                if self._random is None:
                    draft.rename(target)
                else:
                    table = pq.read_table(draft)
                    table = table.take(pa.array(self._random.permutation(table.num_rows)))
                    pq.write_table(table, target, row_group_size=_GROUP_ROWS, compression="zstd")
                    draft.unlink()
                rows = pq.read_metadata(target).num_rows
                name = target.relative_to(self._folder).as_posix()
                files.append(FileRecord(path=name, rows=rows, sha256=storage.sha256(target)))
        self._scratch.cleanup()
        return files
