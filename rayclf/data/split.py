"""Part rows into train, validation and test: stratified, the same for the same rows and seed."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pyarrow as pa

from rayclf.errors import DataError


def stratified_split(rows: pa.Table, shares: dict[str, float], seed: int) -> dict[str, pa.Table]:
    """Hold out parts of canonical rows by ``{part: share}``; what is left is ``train``.

    Rows are grouped by their rarest label, and each group is parted alike. Within a group the order is that of a
    hash of the text, so that equal texts go to one part and none can be seen in training and testing; a text with
    several labels is in the group of its rarest. Every group leaves at least one row in training. A part whose share
    comes to less than a row gets one text of the largest group. Raises DataError when there is none to give.
    """
    texts = rows["text"].to_pylist()
    groups: dict[int, list[str]] = defaultdict(list)
    for text, stratum in _strata(rows, texts).items():
        groups[stratum].append(text)
    left: dict[int, list[str]] = {}
    held_out: dict[str, list[str]] = {part: [] for part in shares}
    for stratum in sorted(groups):
        ordered = sorted(groups[stratum], key=lambda text: _rank(text, seed))
        start = 0
        for part, share in shares.items():
            stop = max(start, min(start + _round(share * len(ordered), seed + stratum), len(ordered) - 1))
            held_out[part] += ordered[start:stop]
            start = stop
        left[stratum] = ordered[start:]
    for part, share in shares.items():
        if share and not held_out[part]:
            largest = max(left, key=lambda stratum: len(left[stratum]), default=-1)
            if len(left.get(largest, [])) < 2:
                raise DataError(
                    f"too few rows ({len(texts)}) to hold out a {part} part; set data.{part} to 0 or give more rows"
                )
            held_out[part].append(left[largest].pop())
    part_of = {text: part for part, members in held_out.items() for text in members}
    indices: dict[str, list[int]] = {part: [] for part in [*shares, "train"]}
    for row, text in enumerate(texts):
        indices[part_of.get(text, "train")].append(row)
    return {part: rows.take(pa.array(members, pa.int64())) for part, members in indices.items()}


def _rank(text: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()


def _strata(rows: pa.Table, texts: list[str]) -> dict[str, int]:
    """The rarest label of each text, -1 for none."""
    positive: list[list[int]] = rows["positive"].to_pylist()
    counts = Counter(label for labels in positive for label in labels)
    labels_of: dict[str, set[int]] = defaultdict(set)
    for text, labels in zip(texts, positive, strict=True):
        labels_of[text].update(labels)
    return {t: min(labels, key=lambda label: (counts[label], label), default=-1) for t, labels in labels_of.items()}


def _round(value: float, seed: int) -> int:
    """Round up or down by chance, so that many small groups give the share in sum and not zero."""
    return int(value) + int(np.random.default_rng(abs(seed)).random() < value % 1)
