"""The first half of a unit's way, which needs no model and no GPU: read its rows and make tokens of their texts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.data.extract import row_ids
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding, Ids, Text
from rayclf.model.info import load_encoding
from rayclf.scoring.job import ScoreJob
from rayclf.scoring.units import Unit, read_unit

RESULTS = ("id", "label", "score", "labels", "probabilities", "top_labels", "top_scores", "error")
TOKENS = "rayclf.tokens."
_NOTHING: Ids = np.empty(0, np.int32)


class UnitReader:
    """Reads units and tokenizes them; artifacts that make tokens alike share them."""

    def __init__(self, job: ScoreJob) -> None:
        self.job = job
        found = [load_encoding(model.folder, model.info) for model in job.models]
        self.encodings = list(dict.fromkeys(found))
        self.encoding_of = [self.encodings.index(encoding) for encoding in found]

    def __call__(self, unit: Unit) -> pa.Table:
        """The unit's rows: kept columns under their names in the output, ``id``, ``error``, and as
        ``rayclf.tokens.<n>`` the token ids for the encoding ``n``, which are none where there is an error."""
        wanted = {"id", *self.job.reads.columns, *self.job.columns.kept.names}
        table, problems = read_unit(unit, wanted)
        texts, unreadable = readable(table, self.job.reads, self.encodings)
        problems = unreadable | problems
        columns: dict[str, Any] = {}
        for field in self.job.columns.kept:
            kept = table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
            columns[self.output_name(field.name)] = kept
        columns["id"] = row_ids(table, unit.source, first_row=unit.first + 1)
        tokens = [self._tokens(encoding, texts, problems) for encoding in self.encodings]
        columns["error"] = pa.array([problems.get(row) for row in range(len(table))], pa.string())
        for number, ids in enumerate(tokens):
            columns[f"{TOKENS}{number}"] = as_lists(
                [_NOTHING if row in problems else ids[row] for row in range(len(ids))]
            )
        return pa.table(columns)

    def output_name(self, name: str) -> str:
        """What an input column is called in the output, where the results have names of their own."""
        taken = {model.prefix + result for model in self.job.models for result in RESULTS}
        return f"input_{name}" if name in taken or name.startswith("probability_") else name

    def _tokens(self, encoding: Encoding, texts: list[Text], problems: dict[int, str]) -> list[Ids]:
        """Token ids by row; notes in ``problems`` the rows that are too long, where that is an error."""
        good = [row for row in range(len(texts)) if row not in problems]
        ids = dict(zip(good, encoding([texts[row] for row in good]), strict=True))
        if self.job.too_long == "error":
            full = [row for row in good if len(ids[row]) >= encoding.max_length]
            for row, length in zip(full, encoding.lengths([texts[row] for row in full]), strict=True):
                if length > encoding.max_length:
                    problems[row] = f"text has {length} tokens, more than {encoding.max_length}"
        return [ids.get(row, _NOTHING) for row in range(len(texts))]


def as_lists(rows: list[Ids]) -> pa.LargeListArray:
    """Token ids by row as one Arrow column, without a Python object for each."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    values = np.concatenate(rows) if rows else _NOTHING
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, pa.int32()))


def from_lists(column: pa.ChunkedArray, keep: npt.NDArray[np.int64]) -> list[Ids]:
    """The inverse, for the rows ``keep``; views, no copies."""
    lists = column.combine_chunks()
    values, offsets = lists.values.to_numpy(), lists.offsets.to_numpy()
    return [values[offsets[row] : offsets[row + 1]] for row in keep]


def readable(table: pa.Table, reads: TextSource, encodings: list[Encoding]) -> tuple[list[Text], dict[int, str]]:
    """What each row gives a classifier to read, and by position why a row gives nothing that can be read.

    A column that this part of the input lacks (objects of JSON need not all have it) is one of nulls.
    """
    for name in reads.columns:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
    rendered = reads.render(table)
    problems = dict(rendered.problems)
    texts: list[Text] = rendered.text.to_pylist()
    if rendered.text_pair is not None:
        texts = list(zip(rendered.text.to_pylist(), rendered.text_pair.to_pylist(), strict=True))
    if reads.form == "messages":
        for encoding in encodings:
            good = [row for row in range(len(texts)) if row not in problems]
            refused = encoding.problems([texts[row] for row in good])
            problems |= {good[position]: reason for position, reason in refused.items()}
    return texts, problems


def pack(unit: Unit, table: pa.Table) -> dict[str, bytes | str]:
    """A read unit as one row of a Ray Data block, which cuts and joins rows but never a value."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return {"unit": json.dumps(asdict(unit)), "table": sink.getvalue().to_pybytes()}


def unpack(unit: str, table: bytes) -> tuple[Unit, pa.Table]:
    """The inverse of :func:`pack`."""
    return Unit(**json.loads(unit)), pa.ipc.open_stream(table).read_all()
