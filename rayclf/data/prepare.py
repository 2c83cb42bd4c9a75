"""From labelled input to a prepared data set: survey it, decide which row goes where, write the rows.

The input is read twice and never held: what is decided between the passes needs a few bytes a row.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from rayclf import storage
from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.data.dataset import (
    LABELS,
    QUARANTINE,
    RECORD,
    Dataset,
    DatasetRecord,
    PartRecord,
    SourceRecord,
    content_hash,
    is_dataset,
)
from rayclf.data.extract import hash_texts
from rayclf.data.label_files import read_labels
from rayclf.data.parallel import spread
from rayclf.data.rebalance import downsample, rebalance
from rayclf.data.rows import canonical_batches
from rayclf.data.split import assign_by_time, assign_parts
from rayclf.data.survey import Survey, Tables, reject_counts, survey
from rayclf.data.weights import LabelCounts
from rayclf.data.writer import PartWriter
from rayclf.errors import ConfigError, DataError, OutputError
from rayclf.storage_errors import failures, shown

Event = dict[str, Any]


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


def prepare(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Dataset:
    """Write labelled input as a prepared data set, which :func:`rayclf.train` takes in the place of a file.

    ``data`` is a file, a folder or a glob, local or in an object store; ``test`` such a one for the test part, else a
    share of ``data`` is split off. ``config`` and ``overrides`` are as for :func:`rayclf.train`; of them ``data``,
    ``labels``, ``train.seed`` and ``output.overwrite`` matter. ``on_event`` gets ``{"kind": "plan", …}`` and then
    ``{"kind": "rows", "done": n, "of": total}``. Raises UserError before anything is written, and leaves nothing behind
    when writing fails.
    """
    settings = config if isinstance(config, Config) else load_config(config, overrides or {})
    place = check_output(output, settings.output.overwrite)
    plan = plan_parts(data, settings, held_out=test is None)
    given = survey_test(test, plan.found, settings) if test is not None else None
    on_event({"kind": "plan", "plan": plan, "test": given})
    remote = "://" in place
    if remote:
        _clear(place)
    with storage.folder_whole(place, last=RECORD) as draft:
        write_dataset(draft, plan, settings, test=given, on_event=on_event)
        if not remote:
            _clear(place)  # of an older data set, which stays until the new one is whole
    return Dataset.open(place)


def _clear(place: str) -> None:
    filesystem, inner = storage.resolve(place)
    with failures(place):
        if storage.kind(place) == "folder":
            filesystem.delete_dir(inner)


def check_output(output: str | os.PathLike[str], overwrite: bool) -> str:
    """The place of a new data set; raises OutputError when it holds something else, or one and not ``overwrite``."""
    place = os.fspath(output)
    kind = storage.kind(place)
    if kind == "file":
        raise OutputError(f"{shown(place)}: is a file; --output must name a folder")
    if kind == "folder" and storage.files_under(place):
        if not is_dataset(place):
            raise OutputError(f"{shown(place)}: exists and is not a prepared data set; choose another --output")
        if not overwrite:
            raise OutputError(f"{shown(place)}: exists; choose another --output or add --overwrite")
    return place


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


def write_dataset(
    folder: Path,
    plan: Plan,
    settings: Config,
    *,
    test: Survey | None = None,
    tables: Tables = spread,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Dataset:
    """Write a prepared data set into ``folder``, which is there and has no ``data`` in it yet."""
    found = plan.found
    seed, shuffle = settings.train.seed, settings.data.shuffle
    writers = {
        name: PartWriter(folder, name, int(plan.rows(name).sum()), seed if shuffle and name == "train" else None)
        for name in plan.names
    }
    total = len(found.codes) + (len(test.codes) if test else 0)
    done = 0
    for numbers, rows in canonical_batches(found, (plan.part >= 0) & (plan.times > 0), tables):
        for position, name in enumerate(plan.names):
            mine = np.flatnonzero(plan.part[numbers] == position)
            writers[name].write(rows, np.repeat(mine, plan.times[numbers[mine]]))
        done = int(numbers[-1]) + 1 if len(numbers) else done
        on_event({"kind": "rows", "done": done, "of": total})
    parts = {name: _part(writers[name], found, plan.rows(name)) for name in plan.names}
    with open(folder / QUARANTINE, "w", encoding="utf-8") as log:
        _set_aside(log, found)
        if test is not None:
            parts["test"] = _write_test(folder, test, tables)
            _set_aside(log, test)
    surveys = [found, test] if test else [found]
    reasons: dict[str, int] = {}
    for one in surveys:
        for reason, count in reject_counts(one).items():
            reasons[reason] = reasons.get(reason, 0) + count
    read, set_aside = sum(len(one.codes) for one in surveys), sum(len(one.rejects) for one in surveys)
    assert found.extract.label is not None
    record = DatasetRecord(
        sources=_sources(found),
        test_sources=_sources(test) if test else [],
        reads=found.extract.reads,
        label=found.extract.label,
        settings=settings.data.model_dump() | {"labels": settings.labels.model_dump()},
        seed=seed,
        read=read,
        kept=read - set_aside,
        quarantined=set_aside,
        reasons=reasons,
        rebalanced=plan.reached,
        parts=parts,
        content_sha256=content_hash(parts),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=importlib.metadata.version("rayclf"),
    )
    storage.write_json(folder / LABELS, found.space.to_json())
    storage.write_json(folder / RECORD, record.model_dump())
    return Dataset(str(folder), record, found.space)


def _write_test(folder: Path, test: Survey, tables: Tables) -> PartRecord:
    wanted = np.zeros(len(test.codes), bool)
    wanted[test.kept] = True
    writer = PartWriter(folder, "test", int(wanted.sum()), None)
    for _, rows in canonical_batches(test, wanted, tables):
        writer.write(rows, np.arange(rows.num_rows))
    return _part(writer, test, wanted.astype(np.int64))


def _part(writer: PartWriter, found: Survey, times: npt.NDArray[np.int64]) -> PartRecord:
    positive, unknown = found.label_counts(times)
    files = writer.close()
    return PartRecord(
        rows=sum(file.rows for file in files), files=files, positive=positive.tolist(), unknown=unknown.tolist()
    )


def _sources(found: Survey) -> list[SourceRecord]:
    return [
        SourceRecord(path=shown(source.path), size=source.size, version=source.version, rows=rows)
        for source, rows in zip(found.sources, found.rows, strict=True)
    ]


def _set_aside(log: IO[str], found: Survey) -> None:
    """One line a rejected row. Not its text: who may read a log is not who may read the data."""
    for number, reason in found.rejects.items():
        source, row = found.where(number)
        entry = {"file": shown(source.path), "row": row, "reason": reason}
        log.write(json.dumps(entry, ensure_ascii=False) + "\n")
