"""Rows to look at: the same few at every evaluation, prediction beside expectation, and the worst mistakes.

Records are ready for JSON and hold the text of a row only when asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.labels import Floats, LabelSpace, ProblemType, dense_targets

MOST_MISTAKES = 50
_TOP = 5  # probabilities told of a row
_MOST_NAMES = 20  # an untrained head may predict half of 25,000 labels
_LONGEST = 1_000  # characters of a text

Record = dict[str, Any]


def choose_samples(ids: Sequence[str], n: int) -> list[int]:
    """Positions, ascending, of at most ``n`` rows: those whose ids have the least hashes.

    The same ids give the same rows in whatever order they come, and a row that is added displaces one at most.
    """
    keys = ((blake2b(row_id.encode(), digest_size=8).digest(), position) for position, row_id in enumerate(ids))
    return sorted(position for _, position in heapq.nsmallest(n, keys))


def sample_records(
    rows: pa.Table, probabilities: Floats, space: LabelSpace, thresholds: Floats, texts: bool = False
) -> list[Record]:
    """One record for each canonical row and its probabilities ``[n, K]``.

    ``id``, the names ``expected`` (unknown targets left out) and ``predicted`` (at most 20, the most probable ones;
    a binary task has its label or the negation), the five highest ``probabilities`` by name, and with ``texts`` the
    ``text`` (and ``text_pair``), cut off after 1,000 characters.
    """
    holds = space.decide(probabilities, thresholds)
    records = []
    columns = [name for name in ("text", "text_pair") if texts and name in rows.column_names]
    for row, chances, held in zip(rows.to_pylist(), probabilities, holds, strict=True):
        records.append(
            {
                "id": row["id"],
                "expected": _expected(row, space),
                "predicted": _predicted(chances, held, space),
                "probabilities": {space.names[i]: round(float(chances[i]), 6) for i in _first(chances, _TOP)},
                **{name: _cut(row[name]) for name in columns},
            }
        )
    return records


@dataclass
class WorstMistakes:
    """The rows on which the classifier was surest of something wrong; ``update`` with batches, ``merge``, ``records``.

    A row's ``score`` is the probability of the wrong answer: of the predicted label (multiclass), or the largest of its
    wrongly decided labels: p where the label does not hold, 1 − p where it does. Rows without a wrong decision on a
    known target are no mistakes. At most ``keep`` rows are in memory; ties go by id, so that neither the order of the
    rows nor the number of workers changes the outcome.
    """

    space: LabelSpace
    thresholds: Floats
    texts: bool = False
    keep: int = MOST_MISTAKES
    worst: list[Record] = field(default_factory=list)

    def update(self, rows: pa.Table, probabilities: Floats) -> None:
        """Look through a batch of canonical rows and their probabilities ``[n, K]``."""
        scores = self._scores(rows, probabilities)
        full = len(self.worst) >= self.keep
        wrong = np.flatnonzero(scores >= self.worst[-1]["score"] if full else ~np.isnan(scores))
        ids = rows["id"].take(pa.array(wrong)).to_pylist()
        best = heapq.nsmallest(self.keep, zip((-scores[wrong]).tolist(), ids, wrong.tolist(), strict=True))
        picked = [position for _, _, position in best]
        records = sample_records(
            rows.take(pa.array(picked, pa.int64())), probabilities[picked], self.space, self.thresholds, self.texts
        )
        for record, position in zip(records, picked, strict=True):
            del record["probabilities"]
            record["score"] = float(scores[position])
        self._add(records)

    def merge(self, other: WorstMistakes) -> None:
        """Add what another worker found over the same label space."""
        self._add(other.worst)

    def records(self) -> list[Record]:
        """``id``, ``expected``, ``predicted``, ``score`` and perhaps the text, as in :func:`sample_records`; the worst
        first."""
        return [record | {"score": round(record["score"], 6)} for record in self.worst]

    def _add(self, records: Sequence[Record]) -> None:
        self.worst = sorted([*self.worst, *records], key=lambda record: (-record["score"], record["id"]))[: self.keep]

    def _scores(self, rows: pa.Table, probabilities: Floats) -> npt.NDArray[np.float64]:
        """How sure of something wrong, ``[n]``; NaN for rows without a mistake."""
        positive, unknown = (rows[name].combine_chunks() for name in ("positive", "unknown"))
        targets = dense_targets(positive, unknown, len(self.space))
        known, truth = ~np.isnan(targets), targets == 1
        holds = self.space.decide(probabilities, self.thresholds)
        wrong = (holds != truth) & known
        if self.space.problem_type is ProblemType.MULTICLASS:
            wrong &= holds  # the label that was missed is the same mistake
        sure = np.where(truth, 1.0 - probabilities.astype(np.float64), probabilities)
        return np.where(wrong.any(axis=1), np.where(wrong, sure, -1.0).max(axis=1), np.nan)


def _first(chances: npt.NDArray[Any], n: int) -> list[int]:
    """Positions of the ``n`` highest probabilities, from the highest; earlier labels before later ones."""
    some = np.argpartition(-chances, n - 1)[:n] if n < len(chances) else np.arange(len(chances))
    return sorted(some.tolist(), key=lambda i: (-float(chances[i]), i))


def _expected(row: Record, space: LabelSpace) -> list[str]:
    names = [space.names[i] for i in row["positive"] or ()]
    if space.problem_type is ProblemType.BINARY and not names and not row["unknown"]:
        return [space.negative]
    return names


def _predicted(chances: npt.NDArray[Any], held: npt.NDArray[np.bool_], space: LabelSpace) -> list[str]:
    if space.problem_type is ProblemType.BINARY and not held[0]:
        return [space.negative]
    positions = np.flatnonzero(held)
    return [space.names[positions[i]] for i in _first(chances[positions], _MOST_NAMES)]


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _LONGEST else text[:_LONGEST] + "…"
