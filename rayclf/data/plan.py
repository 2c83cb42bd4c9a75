"""Which part each row of an input goes to, and how often: decided from a few bytes a row, before any is written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from rayclf.config import Config
from rayclf.data.extract import hash_texts
from rayclf.data.label_files import read_labels
from rayclf.data.parallel import spread
from rayclf.data.rebalance import downsample, rebalance
from rayclf.data.split import assign_by_time, assign_parts
from rayclf.data.survey import Survey, Tables, survey
from rayclf.data.weights import LabelCounts
from rayclf.errors import ConfigError, DataError
from rayclf.storage_errors import shown


@dataclass(frozen=True)
class Plan:
    """What is decided about every row: ``part [n]`` its part by number, -1 for none, and ``times [n]`` how often it is
    written. ``reached`` is what rebalancing came to."""

    found: Survey
    names: tuple[str, ...]
    part: npt.NDArray[np.int8]
    times: npt.NDArray[np.int32]
    reached: dict[str, dict[str, float]]

    def counts(self, part: str) -> LabelCounts:
        """In how many rows of a part each label holds and is unknown."""
        times = self.rows(part)
        return LabelCounts(int(times.sum()), *self.found.label_counts(times))

    def rows(self, part: str) -> npt.NDArray[np.int64]:
        """``[n]``: how often each row is written to ``part``."""
        return np.where(self.part == self.names.index(part), self.times, 0).astype(np.int64)


def survey_test(test: str | os.PathLike[str], found: Survey, settings: Config, tables: Tables = spread) -> Survey:
    """Survey rows for the test, read as ``found`` was, their labels in its label space."""
    config = settings.data.model_copy(update={"label": found.extract.label, "split": "random", "split_column": None})
    return survey(test, config, space=found.space, prefer=found.extract.reads, tables=tables)


def plan_parts(data: str | os.PathLike[str], settings: Config, *, held_out: bool, tables: Tables = spread) -> Plan:
    """Survey ``data`` and part its rows; ``held_out`` says that a test part is to be split off.

    Raises what :func:`rayclf.data.survey.survey`, the split and the rebalancing raise.
    """
    config = settings.data
    shares = {"test": config.test, "validation": config.validation} if held_out else {"validation": config.validation}
    if sum(shares.values()) >= 1:
        raise ConfigError("data.test and data.validation: leave no rows to train on; lower them")
    shares = {part: share for part, share in shares.items() if share}
    declared = read_labels(settings.labels.file) if settings.labels.file else ()
    found = survey(data, config, declared=declared, problem_type=settings.labels.problem_type, tables=tables)
    kept = found.kept
    part = np.full(len(found.codes), -1, np.int8)
    part[kept] = _split(found, kept, shares, settings)
    times = np.ones(len(found.codes), np.int32)
    seed, train = settings.train.seed, np.flatnonzero(part == 0)
    if config.downsample is not None:
        times[train[~downsample(found.identity[train], config.downsample, seed)]] = 0
        train = train[times[train] > 0]
    reached: dict[str, dict[str, float]] = {}
    if config.rebalance:
        space = found.space
        balanced = rebalance(
            found.positives(train), space.names, space.problem_type, config.rebalance, found.identity[train], seed
        )
        times[train], reached = balanced.repeats, balanced.reached
    return Plan(found, ("train", *shares), part, times, reached)


def _split(
    found: Survey, kept: npt.NDArray[np.int64], shares: dict[str, float], settings: Config
) -> npt.NDArray[np.int8]:
    method, seed = settings.data.split, settings.train.seed
    if not shares:
        return np.zeros(len(kept), np.int8)
    if method == "time":
        return assign_by_time(_times(found, kept), shares)
    identity = found.identity[kept]
    if method == "group":
        assert found.split is not None
        identity = hash_texts([found.split[row] for row in kept])
    return assign_parts(
        identity, found.positives(kept), shares, method=method, seed=seed, labels=len(found.space)
    )  # fmt: skip


def _times(found: Survey, kept: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The split column as numbers: those that it holds, else seconds of its dates in ISO 8601."""
    assert found.split is not None
    values = [(found.split[row] or "").strip() for row in kept]
    known: dict[str, float] = {}
    for row, value in zip(kept, values, strict=True):
        if value in known:
            continue
        try:
            known[value] = float(value)
        except ValueError:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                source, number = found.where(int(row))
                raise DataError(
                    f"{shown(source.path)}: row {number}, column '{found.extract.split_column}': "
                    f"not a time; use ISO 8601, such as 2024-05-31, or a number"
                ) from None
            known[value] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return np.array([known[value] for value in values])
