"""The label space of a task: its ordered labels, its problem type, and how probabilities become labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.errors import LabelError

Floats = npt.NDArray[np.float32]


class ProblemType(StrEnum):
    """What the labels of one row can be."""

    BINARY = "binary"  # one label that holds or not; sigmoid
    MULTICLASS = "multiclass"  # exactly one label; softmax
    MULTILABEL = "multilabel"  # any number of labels; a sigmoid each

    @property
    def transformers(self) -> str:
        """The ``problem_type`` that Transformers stores in a model's config."""
        single = self is ProblemType.MULTICLASS
        return "single_label_classification" if single else "multi_label_classification"


@dataclass(frozen=True)
class LabelSpace:
    """The ordered labels of a task.

    ``names`` has one entry for ``binary``, at least two for ``multiclass`` and at least one for ``multilabel``.
    ``ids`` and ``alternatives`` are by name, for labels that have them. Raises LabelError when the names do not fit the
    problem type, repeat, or are empty, and when two labels share an id.
    """

    names: tuple[str, ...]
    problem_type: ProblemType
    descriptions: Mapping[str, str] = field(default_factory=dict, hash=False)
    ids: Mapping[str, str] = field(default_factory=dict, hash=False)
    alternatives: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if any(not name.strip() for name in self.names):
            raise LabelError("a label name is empty; give every label a name")
        if len(set(self.names)) != len(self.names):
            twice = sorted(name for name, times in Counter(self.names).items() if times > 1)
            raise LabelError(f"label names repeat: {', '.join(twice[:5])}; every label needs its own name")
        if len(set(self.ids.values())) != len(self.ids):
            twice = sorted(label_id for label_id, times in Counter(self.ids.values()).items() if times > 1)
            raise LabelError(f"label ids repeat: {', '.join(twice[:5])}; every label needs its own id")
        strange = {*self.ids, *self.alternatives}.difference(self.names)
        if strange:
            raise LabelError(f"ids or alternatives are given for unknown labels: {', '.join(sorted(strange)[:5])}")
        size = len(self.names)
        if self.problem_type is ProblemType.BINARY and size != 1:
            raise LabelError(
                f"a binary task has one label, not {size}; set labels.problem_type to multiclass or multilabel"
            )
        if self.problem_type is ProblemType.MULTICLASS and size < 2:
            raise LabelError("a multiclass task needs at least two labels")
        if size == 0:
            raise LabelError("the label space is empty")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Label name to its position."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def lookup(self) -> Mapping[str, int]:
        """Whatever a data file may call a label, to its position: its name before an id before an alternative name.

        An alternative name that two labels share stands for neither.
        """
        owners: dict[str, set[int]] = {}
        for name, others in self.alternatives.items():
            for other in others:
                owners.setdefault(other, set()).add(self.index[name])
        found = {other: min(positions) for other, positions in owners.items() if len(positions) == 1}
        return found | {label_id: self.index[name] for name, label_id in self.ids.items()} | dict(self.index)

    @property
    def negative(self) -> str:
        """What a binary task answers when its label does not hold."""
        return "negative" if self.names[0] == "positive" else f"not {self.names[0]}"

    def probabilities(self, logits: Floats) -> Floats:
        """Logits ``[n, K]`` to probabilities ``[n, K]`` in float32: softmax for multiclass, else a sigmoid each."""
        x = logits.astype(np.float64)
        if self.problem_type is ProblemType.MULTICLASS:
            x = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
            return (x / x.sum(axis=1, keepdims=True)).astype(np.float32)
        return (1.0 / (1.0 + np.exp(-np.clip(x, -700, 700)))).astype(np.float32)

    def decide(self, probabilities: Floats, thresholds: Floats) -> npt.NDArray[np.bool_]:
        """Which labels hold, ``[n, K]``: the most probable one (multiclass), else those that reach their threshold."""
        if self.problem_type is ProblemType.MULTICLASS:
            return np.arange(len(self)) == probabilities.argmax(axis=1)[:, None]
        return probabilities >= thresholds

    def best(self, probabilities: Floats, holds: npt.NDArray[np.bool_]) -> list[tuple[str, float]]:
        """The most probable label of each row and its probability; of a binary task the label or its negation.

        ``holds`` are the decisions, ``[n, K]`` as ``probabilities``.
        """
        found = []
        for row, mask, top in zip(probabilities, holds, probabilities.argmax(axis=1), strict=True):
            negated = self.problem_type is ProblemType.BINARY and not mask[0]
            found.append((self.negative, 1.0 - float(row[0])) if negated else (self.names[top], float(row[top])))
        return found

    def held(self, holds: npt.NDArray[np.bool_]) -> list[list[str]]:
        """The labels that hold of each row, by name."""
        return [[self.names[place] for place in np.flatnonzero(row)] for row in holds]

    def to_json(self) -> dict[str, Any]:
        """The form kept in ``labels.json`` and ``rayclf.json``."""
        labels = []
        for name in self.names:
            label: dict[str, Any] = {"name": name}
            if name in self.ids:
                label["id"] = self.ids[name]
            if self.alternatives.get(name):
                label["alternatives"] = list(self.alternatives[name])
            if name in self.descriptions:
                label["description"] = self.descriptions[name]
            labels.append(label)
        return {"problem_type": str(self.problem_type), "labels": labels}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabelSpace:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on another form."""
        labels = data["labels"]
        return cls(
            names=tuple(str(label["name"]) for label in labels),
            problem_type=ProblemType(data["problem_type"]),
            descriptions={str(label["name"]): label["description"] for label in labels if "description" in label},
            ids={str(label["name"]): str(label["id"]) for label in labels if "id" in label},
            alternatives={
                str(label["name"]): tuple(map(str, label["alternatives"]))
                for label in labels
                if "alternatives" in label
            },
        )


def dense_targets(positive: pa.Array, unknown: pa.Array, size: int) -> Floats:
    """Targets ``[n, size]`` as float32: 1 holds, 0 does not, NaN unknown.

    ``positive`` and ``unknown`` are Arrow ``list<int32>`` of label positions. Rows are kept in this sparse form
    everywhere and made dense a batch at a time, so that 25,000 labels cost no more than their ones.
    """
    targets = np.zeros((len(positive), size), dtype=np.float32)
    for column, value in ((positive, 1.0), (unknown, np.nan)):
        rows = np.repeat(np.arange(len(column)), np.diff(column.offsets.to_numpy()))
        targets[rows, column.flatten().to_numpy()] = value
    return targets


def sparse_targets(rows: Sequence[Sequence[int] | None]) -> pa.ListArray:
    """Label positions of each row, or None, as the Arrow ``list<int32>`` that canonical rows hold."""
    return pa.array(rows, type=pa.list_(pa.int32()))
