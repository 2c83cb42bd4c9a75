"""Score one unit: read, classify, write its file, commit."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rayclf import storage
from rayclf.data.extract import row_ids
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Text
from rayclf.labels import Floats
from rayclf.model.engine import Classifier, Precision
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.units import Unit, read_unit

Layout = Literal["list", "columns", "none"]
RESULTS = ("id", "label", "score", "labels", "probabilities", "error")


@dataclass(frozen=True)
class ScoreJob:
    """What every scoring process needs to know."""

    artifact: Path
    output: Path
    reads: TextSource
    kept: pa.Schema
    probabilities: Layout
    precision: Precision
    rows_a_unit: int
    threads: int


class UnitScorer:
    """Holds the classifier and scores units; Ray Data makes one in each process of its pool."""

    def __init__(self, job: ScoreJob) -> None:
        torch.set_num_threads(job.threads)
        self.job = job
        self.manifest = Manifest(job.output)
        self.classifier = Classifier.load(job.artifact, precision=job.precision)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the units of a batch (Ray Data hands over one at a time) and tell what was done."""
        units = [Unit(**json.loads(unit)) for unit in batch["unit"]]
        records = [self.score(unit) for unit in units]
        return {name: np.asarray([record[name] for record in records]) for name in records[0]}

    def score(self, unit: Unit) -> dict[str, Any]:
        """Score one unit; returns its commit record: rows, errors, tokens, and when it began and ended."""
        began = time.time()
        table = read_unit(unit, self.job.rows_a_unit)
        texts, problems = readable(table, self.job.reads, self.classifier)
        errors = [problems.get(position) for position in range(len(table))]
        good = [position for position, error in enumerate(errors) if error is None]
        ids = self.classifier.encoding([texts[position] for position in good])
        probabilities = self.classifier.to_probabilities(self.classifier.forward(ids))
        result = self._table(table, unit, good, probabilities, errors)
        with storage.write_whole(self.manifest.part(unit.name)) as file:
            pq.write_table(result, file, compression="zstd")
        record = {
            "rows": len(table),
            "errors": len(table) - len(good),
            "tokens": sum(len(row) for row in ids),
            "began": began,
            "ended": time.time(),
        }
        self.manifest.commit(unit.name, record)
        return record

    def _table(
        self, table: pa.Table, unit: Unit, good: list[int], probabilities: Floats, errors: list[str | None]
    ) -> pa.Table:
        """The kept input columns and the results; rows with an error have nulls for results."""
        job, space = self.job, self.classifier.space
        predictions = self.classifier.interpret(probabilities)
        place = np.full(len(table), -1)
        place[good] = np.arange(len(good))
        spread = pa.array([None if p < 0 else int(p) for p in place], pa.int64())
        columns: dict[str, Any] = {}
        for field in job.kept:
            kept = table[field.name] if field.name in table.column_names else pa.nulls(len(table), field.type)
            columns[f"input_{field.name}" if field.name in RESULTS else field.name] = kept
        columns["id"] = row_ids(table, unit.source, first_row=unit.first + 1)
        columns["label"] = pa.array([p.label for p in predictions], pa.string()).take(spread)
        columns["score"] = pa.array([p.score for p in predictions], pa.float32()).take(spread)
        columns["labels"] = pa.array([p.labels for p in predictions], pa.list_(pa.string())).take(spread)
        if job.probabilities == "list":
            columns["probabilities"] = pa.array(list(probabilities), pa.list_(pa.float32())).take(spread)
        elif job.probabilities == "columns":
            for position, name in enumerate(space.names):
                columns[f"probability_{name}"] = pa.array(probabilities[:, position]).take(spread)
        columns["error"] = pa.array(errors, pa.string())
        labels = {"rayclf.labels": json.dumps(space.names)}  # the order of the probabilities
        return pa.table(columns).replace_schema_metadata(labels)


def readable(table: pa.Table, reads: TextSource, classifier: Classifier) -> tuple[list[Text], dict[int, str]]:
    """What each row gives the classifier to read, and by position why a row gives nothing that can be read.

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
        good = [row for row in range(len(texts)) if row not in problems]
        refused = classifier.encoding.problems([texts[row] for row in good])
        problems |= {good[position]: reason for position, reason in refused.items()}
    return texts, problems
