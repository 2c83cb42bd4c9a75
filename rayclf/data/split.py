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
    several labels is in the group of its rarest. Every group leaves at least one row in training. Raises DataError
    when a part with a share would get no row.
    """
    texts = rows["text"].to_pylist()
    groups: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    group_of_text = _strata(rows, texts)
    for row, text in enumerate(texts):
        groups[group_of_text[text]][text].append(row)
    parts: dict[str, list[int]] = {part: [] for part in [*shares, "train"]}
    for stratum in sorted(groups):
        by_text = groups[stratum]
        ordered = sorted(by_text, key=lambda text: hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest())
        start = 0
        for part, share in shares.items():
            stop = min(start + _round(share * len(ordered), seed + stratum), len(ordered) - 1)
            parts[part] += [row for text in ordered[start:stop] for row in by_text[text]]
            start = max(start, stop)
        parts["train"] += [row for text in ordered[start:] for row in by_text[text]]
    for part, share in shares.items():
        if share and not parts[part]:
            raise DataError(
                f"too few rows ({len(texts)}) to hold out a {part} part; set data.{part} to 0 or give more rows"
            )
    return {part: rows.take(pa.array(sorted(indices), pa.int64())) for part, indices in parts.items()}


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
