"""From labelled input to a prepared data set: survey it, plan which row goes where, write the rows.

The input is read twice and never held: what is decided between the passes needs a few bytes a row.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from rayclf.data.parallel import spread
from rayclf.data.part_hints import find_part_hints
from rayclf.data.plan import Plan, plan_parts, survey_test
from rayclf.data.rows import canonical_batches
from rayclf.data.survey import Survey, Tables, reject_counts
from rayclf.data.writer import PartWriter
from rayclf.errors import OutputError
from rayclf.storage_errors import failures, shown

Event = dict[str, Any]


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
    place = check_output(output, settings.output.overwrite, (data, test))
    plan = plan_parts(data, settings, held_out=test is None)
    given = survey_test(test, plan.found, settings) if test is not None else None
    hints = find_part_hints(plan, given)
    on_event({"kind": "plan", "plan": plan, "test": given, "hints": hints})
    remote = "://" in place
    if remote:
        _clear(place)
    with storage.folder_whole(place, last=RECORD) as draft:
        write_dataset(draft, plan, settings, test=given, hints=hints, on_event=on_event)
        if not remote:
            _clear(place)  # of an older data set, which stays until the new one is whole
    return Dataset.open(place)


def _clear(place: str) -> None:
    filesystem, inner = storage.resolve(place)
    with failures(place):
        if storage.kind(place) == "folder":
            filesystem.delete_dir(inner)


def check_output(
    output: str | os.PathLike[str], overwrite: bool, inputs: Iterable[str | os.PathLike[str] | None]
) -> str:
    """The place of a new data set; raises OutputError when it holds something else, or one and not ``overwrite``, or
    with that one of the ``inputs``."""
    place = os.fspath(output)
    kind = storage.kind(place)
    if kind == "file":
        raise OutputError(f"{shown(place)}: is a file; --output must name a folder")
    if kind == "folder" and storage.files_under(place):
        if not is_dataset(place):
            raise OutputError(f"{shown(place)}: exists and is not a prepared data set; choose another --output")
        if not overwrite:
            raise OutputError(f"{shown(place)}: exists; choose another --output or add --overwrite")
        storage.keep_inputs(place, inputs)
    return place


def write_dataset(
    folder: Path,
    plan: Plan,
    settings: Config,
    *,
    test: Survey | None = None,
    hints: Sequence[str] = (),
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
        hints=list(hints),
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
