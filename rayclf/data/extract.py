"""Input files to what each row says: its text, its label cell, and what is wrong with it. A file at a time, streaming.

Both passes over an input come through here: the first keeps a few bytes of each row (:mod:`rayclf.data.survey`), the
second takes the texts of the rows that are kept (:mod:`rayclf.data.rows`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rayclf.data.formats import read_batches, text_column
from rayclf.data.reading import Rejects
from rayclf.data.sources import Source
from rayclf.data.texts import TextSource
from rayclf.errors import DataError

_ROWS = 8192  # of one table: enough for Arrow to be fast, few enough to be held by many tasks at once


@dataclass(frozen=True)
class Extract:
    """What is read of each row: the text, the label cell, and a value that the split goes by."""

    reads: TextSource
    label: str | None
    split_column: str | None = None

    @property
    def columns(self) -> set[str]:
        """The columns that are read."""
        return {"id", *self.reads.columns} | {name for name in (self.label, self.split_column) if name is not None}

    def __call__(self, source: Source) -> Iterator[pa.Table]:
        """The file's rows in order, all of them: ``id``, ``text``, ``text_pair`` for pairs, ``label``, ``split`` and
        ``problem``, which is null for a row that can be used. Raises DataError as the readers do."""
        rejects, done = Rejects(), 0
        columns = self.columns - source.partitions.keys()
        for table in read_batches(source.path, _ROWS, columns, rejects, may_be_empty=True):
            if not table.num_rows:
                continue
            table = with_partitions(table, source, self.columns)
            for name in self.columns - {"id"}:
                if name not in table.column_names:
                    raise DataError(f"{source.path}: no column '{name}', which other files of the input have")
            rendered = self.reads.render(table)
            problems = {
                **self._named(rendered.problems),
                **{r - done - 1: why for r, why in rejects.items() if r > done},
            }
            found = {"id": row_ids(table, source.name, done + 1), "text": rendered.text}
            if rendered.text_pair is not None:
                found["text_pair"] = rendered.text_pair
            for role, column in (("label", self.label), ("split", self.split_column)):
                if column is not None:
                    found[role] = table[column]
            found["problem"] = _sparse_strings(problems, table.num_rows)
            yield pa.table(found)
            done += table.num_rows
            rejects.clear()

    def _named(self, problems: Mapping[int, str]) -> dict[int, str]:
        """Problems with the text that name its column where it is one."""
        where = f"column '{self.reads.columns[0]}': " if len(self.reads.columns) == 1 else ""
        return {row: why if why.startswith("column ") else f"{where}{why}" for row, why in problems.items()}


def with_partitions(table: pa.Table, source: Source, wanted: set[str] | None = None) -> pa.Table:
    """The table with the columns that the folders of the file's path give, as in ``year=2024/part.parquet``; they win
    over columns of the file."""
    for name, value in source.partitions.items():
        if wanted is None or name in wanted:
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    return table


def _sparse_strings(values: dict[int, str], size: int) -> pa.Array:
    if not values:
        return pa.nulls(size, pa.string())
    return pa.array([values.get(position) for position in range(size)], pa.string())


def row_ids(table: pa.Table, name: str, first_row: int = 1) -> pa.Array:
    """Each row's ``id`` where the file gives one, else ``<name>#<row>``, rows counted from 1."""
    made = pa.array([f"{name}#{row}" for row in range(first_row, first_row + table.num_rows)], pa.string())
    if "id" not in table.column_names or not table.num_rows:
        return made
    given = pa.concat_arrays([text_column(chunk) for chunk in table["id"].chunks])
    missing = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(given), ""), True)
    return pc.if_else(missing, made, given)


def identities(table: pa.Table) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row's text, or pair of texts: who a row is, whatever its id, file or place."""
    texts = table["text"].to_pylist()
    if "text_pair" in table.column_names:
        pairs = zip(texts, table["text_pair"].to_pylist(), strict=True)
        texts = [f"{len(first or '')}\0{first}{second}" for first, second in pairs]
    return hash_texts(texts)


def hash_texts(texts: list[str | None]) -> npt.NDArray[np.uint64]:
    """BLAKE2b of each text, 8 bytes, as numbers; null as the empty text."""
    digest = b"".join(hashlib.blake2b((text or "").encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(digest, "<u8").astype(np.uint64)
