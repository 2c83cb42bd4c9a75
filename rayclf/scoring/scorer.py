"""The second half of a unit's way: classify its rows, write its file, commit."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from rayclf.model.shared import forward_together, load_together
from rayclf.scoring.job import ScoreJob
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.output import label_order, result_columns, spread, write_unit
from rayclf.scoring.reading import TOKENS, UnitReader, from_lists, unpack
from rayclf.scoring.units import Unit


class UnitScorer:
    """Holds the classifiers and scores units; Ray Data makes one in each process of its pool."""

    def __init__(self, job: ScoreJob) -> None:
        os.environ.setdefault("RAYON_NUM_THREADS", str(job.threads))  # of the tokenizer
        torch.set_num_threads(job.threads)
        self.job = job
        self.manifest = Manifest(job.output)
        self.reader = UnitReader(job)
        folders = [model.folder for model in job.models]
        # Of all rows, not of those that are left: a job that goes on must choose the same runtime.
        self.classifiers = load_together(folders, precision=job.precision, runtime=job.runtime, expected_rows=job.rows)
        if job.threshold is not None:
            for classifier in self.classifiers:
                classifier.calibrate(classifier.info.temperature, [job.threshold] * len(classifier.space))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score units, read already (``table``) or not, and tell what was done: the commit records, as JSON."""
        records = []
        for position, unit in enumerate(batch["unit"]):
            if "table" in batch:
                records.append(self.score(*unpack(unit, batch["table"][position])))
            else:
                records.append(self.score(Unit(**json.loads(unit))))
        return {"record": np.asarray([json.dumps(record) for record in records])}

    def score(self, unit: Unit, table: pa.Table | None = None) -> dict[str, Any]:
        """Score one unit, of which ``table`` is what a reader made of it; returns its commit record."""
        began = time.time()
        result, tokens = self.classify(self.reader(unit) if table is None else table)
        files = write_unit(self.manifest, unit.name, result, self.job.columns.by_label)
        record = {
            "unit": unit.name,
            "rows": result.num_rows,
            "errors": result.num_rows - result["error"].null_count,
            "tokens": tokens,
            "bytes": sum(file["bytes"] for file in files),
            "files": files,
            "began": began,
            "ended": time.time(),
        }
        self.manifest.commit(unit.name, record)
        return record

    def classify(self, table: pa.Table) -> tuple[pa.Table, int]:
        """What a reader made of rows, as the output has it, and the tokens that were read of them."""
        errors = table["error"]
        good = np.flatnonzero(errors.is_null().to_numpy())
        tokens = 0
        results: dict[str, pa.Array] = {}
        read = [from_lists(table[f"{TOKENS}{number}"], good) for number in range(len(self.reader.encodings))]
        ids = [read[number] for number in self.reader.encoding_of]
        forwards = forward_together(self.classifiers, ids)
        for model, classifier, rows, logits in zip(self.job.models, self.classifiers, ids, forwards, strict=True):
            tokens += sum(len(row) for row in rows)
            probabilities = classifier.to_probabilities(logits)
            found = result_columns(
                classifier.space, probabilities, classifier.decide(probabilities), self.job.columns, model.prefix
            )
            results |= spread(found, good, len(table))
        kept = {name: table[name] for name in table.column_names if name != "error" and not name.startswith(TOKENS)}
        result = pa.table({**kept, **results, "error": errors})
        return result.replace_schema_metadata(label_order(self.classifiers[0].space)), tokens
