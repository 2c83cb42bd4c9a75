"""Texts to token ids: one function for training, evaluation, scoring and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

from rayclf.labels import Floats

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens: a fast tokenizer as its JSON, the template, and the most tokens kept of a text.

    It is plain data, so that it travels to Ray tasks, and it needs no Transformers, which takes seconds to import.
    """

    tokenizer_json: str
    template: str
    max_length: int

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids of each text, special tokens included, cut to ``max_length``; never empty for a non-empty text."""
        tokenizer = _tokenizer(self.tokenizer_json, self.max_length)
        if self.template != "{text}":
            before, after = self.template.split("{text}")
            texts = [f"{before}{text}{after}" for text in texts]
        return [np.asarray(encoded.ids, dtype=np.int32) for encoded in tokenizer.encode_batch_fast(list(texts))]


@dataclass(frozen=True)
class TokenBatch:
    """Tokenized training rows: their numbers ``[n]``, token ids a row, and dense targets ``[n, K]``."""

    rows: npt.NDArray[np.int64]
    input_ids: list[Ids]
    targets: Floats


@lru_cache(maxsize=4)
def _tokenizer(tokenizer_json: str, max_length: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def tokenize_rows(rows: pa.Table, encoding: Encoding) -> pa.Table:
    """Canonical rows with ``input_ids: list<int32>`` in the place of ``text``."""
    ids = encoding(rows["text"].to_pylist())
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int32)
    values = np.concatenate(ids) if ids else np.empty(0, np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))
    return rows.drop_columns(["text"]).append_column("input_ids", column)
