"""How much there is to train on: rows, labels, and tokens a row by tokenizing a sample."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rayclf.config import Config
from rayclf.data.dataset import Dataset
from rayclf.data.parallel import spread
from rayclf.data.survey import Survey
from rayclf.data.token_lengths import LengthSample, load_encoding
from rayclf.data.tokens import row_texts
from rayclf.training.plan import TrainingData, find_data

_SAMPLE = 4096  # rows: the mean of their lengths is within 2 % of that of all
_PLACES = 16  # of a prepared data set, from which as many rows are read


@dataclass(frozen=True)
class Workload:
    """Rows of the training part, the number of labels, and the tokens of a row, cut as training cuts them."""

    rows: int
    labels: int
    tokens_per_row: float


def measure(data: str | os.PathLike[str], settings: Config) -> Workload:
    """Look at what is to be trained on, as training does; raises UserError for data that cannot be used."""
    found = find_data(data, None, settings)
    _, encoding = load_encoding(settings.model.backbone, settings.model, found.reads)
    longest = min(settings.model.max_length, encoding.max_length)
    rows = found.counts["train"].rows
    if isinstance(found.source, Dataset):
        encoding = replace(encoding, max_length=longest)
        lengths = [len(ids) for table in _places(found.source) for ids in encoding(row_texts(table))]
        return Workload(rows, len(found.space), float(np.mean(lengths)))
    return Workload(rows, len(found.space), _sampled(found, found.source.found, longest, settings))


def _places(dataset: Dataset) -> Iterator[pa.Table]:
    rows, each = dataset.rows["train"], _SAMPLE // _PLACES
    for start in np.unique(np.linspace(0, max(0, rows - each), _PLACES).astype(int)):
        yield dataset.read("train", int(start), min(rows, int(start) + each))


def _sampled(found: TrainingData, survey: Survey, longest: int, settings: Config) -> float:
    sample = LengthSample(*load_encoding(settings.model.backbone, settings.model, found.reads), most=_SAMPLE)
    for _, table in spread(survey.sources, survey.extract):
        sample.add(table)
    lengths = sample.result(survey.usable, longest)
    if lengths is None:
        return float(longest)
    cut = next(cut for cut in lengths.truncation if cut.max_length == longest)
    return lengths.mean * (1 - cut.tokens)
