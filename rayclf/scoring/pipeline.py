"""Score an input of any size with Ray Data: every row once, in files that appear whole, resumable at any moment."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from rayclf import storage
from rayclf.cluster import connect, cores, native_stderr_to, require_cpus, root_cause
from rayclf.data.columns import find_text
from rayclf.data.formats import format_of, open_parquet, read_batches
from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.model.info import find_artifact, read_info, verify
from rayclf.scoring.manifest import FORMAT, Manifest
from rayclf.scoring.units import InputFile, Unit, find_files, look_at, plan_units, rows_a_unit

if TYPE_CHECKING:
    from rayclf.scoring.scorer import Layout, ScoreJob


_TEXTUAL = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_dictionary)


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring job did. ``rows``, ``errors`` and ``tokens`` count the whole output, ``scored_rows`` this run's;
    ``seconds`` is the time from the first unit's begin to the last one's end, loading not counted."""

    output: str
    rows: int
    errors: int
    tokens: int
    units: int
    scored_rows: int
    seconds: float
    rows_per_second: float


def score(
    artifact: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    text: str | None = None,
    columns: Sequence[str] | None = None,
    probabilities: Layout = "list",
    precision: str = "auto",
    replicas: int | None = None,
    overwrite: bool = False,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> ScoreSummary:
    """Score a file or a folder of files into a folder of Parquet files.

    What the classifier was trained on is read: a column, a pair, a template's columns or chat messages. ``text`` names
    another column for it (of a pair the first, of a template its rendered text); where the one column that it was
    trained on is missing, the one that can be it is taken. All columns are kept unless ``columns`` says which. The
    output has one row for each input row: the kept columns, ``id``, ``label``, ``score``, ``labels``,
    ``probabilities`` (a list in label order, one column a label, or none), and ``error`` where a row has nothing that
    can be scored. Calling it again finishes what is missing and rewrites nothing.

    ``replicas`` are the processes that score: one a GPU, else one a core, when unset. ``on_event`` gets
    ``{"kind": "plan", …}`` and then ``{"kind": "unit", "rows": done, "of": total, …}``. Raises UserError for what the
    caller can mend, before anything is written.
    """
    folder = find_artifact(artifact)
    info = read_info(folder)
    verify(folder, info)
    files = [look_at(path, name) for path, name in find_files(source).items()]
    reads = info.reads.read_from(text) if text else _found(files, info.reads)
    kept = _kept_columns(files, reads, columns)
    size = rows_a_unit(sum(file.rows for file in files))
    plan = {
        "format": FORMAT,
        "artifact": storage.sha256(folder / "rayclf.json"),  # which holds the hashes of all its files
        "text": reads.model_dump(exclude_none=True),
        "columns": {field.name: str(field.type) for field in kept},
        "probabilities": probabilities,
        "precision": precision,
        "rows_a_unit": size,
        "files": [file.to_json() for file in files],
    }
    manifest = Manifest(output)
    done = manifest.open(plan, overwrite)
    units = plan_units(files, size)
    open_units = [unit for unit in units if unit.name not in done]
    total = sum(file.rows for file in files)
    ready = total - sum(unit.rows for unit in open_units)
    on_event({"kind": "plan", "units": len(units), "rows": total, "done": ready})
    seconds, scored = 0.0, 0
    if open_units:
        connect()
        count = _replicas(replicas, len(open_units))
        job = _job(folder, manifest.output, reads, kept, probabilities, precision, size, count)
        with native_stderr_to(manifest.output / "_manifest" / "ray.log"):
            seconds, scored = _run(job, open_units, count, ready, total, on_event)
    totals = manifest.totals()
    rate = scored / seconds if seconds else 0.0
    return ScoreSummary(
        str(manifest.output), **totals, units=len(units), scored_rows=scored, seconds=seconds, rows_per_second=rate
    )


def _found(files: Sequence[InputFile], trained_on: TextSource) -> TextSource:
    """What to read, by the first file; the others must have it too. In the place of one column another may be found."""
    first = files[0]
    if trained_on.text is None or trained_on.text_pair is not None or trained_on.text in first.schema.names:
        return trained_on
    if format_of(first.path) == "parquet":
        with open_parquet(first.path) as file:
            batch = next(file.iter_batches(batch_size=1000))
        strings = [f.name for f in batch.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        sample = pa.Table.from_batches([batch]).select(strings)
    else:
        sample = next(read_batches(first.path, 1000))
    return TextSource(text=find_text(sample, first.path))


def _kept_columns(files: Sequence[InputFile], reads: TextSource, columns: Sequence[str] | None) -> pa.Schema:
    """The input columns to keep, of one type each over all files, which the output needs to be one table."""
    for file in files:
        reads.check(file.schema.names, file.path)
        for name in reads.columns if reads.template is None else ():
            kind = file.schema.field(name).type
            chat = reads.form == "messages" and (pa.types.is_list(kind) or pa.types.is_large_list(kind))
            if not chat and not any(is_text(kind) for is_text in _TEXTUAL):
                what = "chat messages" if reads.form == "messages" else "text"
                raise DataError(
                    f"{file.path}: text column '{name}' holds {kind}, not {what}; choose another with --text"
                )
    known: dict[str, tuple[InputFile, pa.Field]] = {}
    for file in files:
        for field in file.schema:
            first, seen = known.setdefault(field.name, (file, field))
            if field.type != seen.type and (columns is None or field.name in columns):
                raise DataError(
                    f"{file.path}: column '{field.name}' is {field.type}, but {seen.type} in {first.path}; "
                    "score these files apart, or leave the column out of --columns"
                )
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise DataError(f"{files[0].path}: no column '{unknown[0]}'; --columns must name some of: {', '.join(known)}")
    names = known if columns is None else columns
    return pa.schema([known[name][1].with_nullable(True) for name in names if name != "id"])


def _replicas(asked: int | None, units: int) -> int:
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    count = min(units, asked or gpus or int(min(cores(), ray.cluster_resources().get("CPU", 1))))
    require_cpus(count, f"scoring with {count} replicas", "lower --replicas")
    return count


def _job(
    folder: Path,
    output: Path,
    reads: TextSource,
    kept: pa.Schema,
    layout: Layout,
    precision: str,
    size: int,
    count: int,
) -> ScoreJob:
    from rayclf.scoring.scorer import ScoreJob

    threads = max(1, cores() // count)
    return ScoreJob(folder, output, reads, kept, layout, precision, size, threads)  # type: ignore[arg-type]  # checked there


def _run(
    job: ScoreJob, units: Sequence[Unit], count: int, ready: int, total: int, on_event: Callable[[dict[str, Any]], None]
) -> tuple[float, int]:
    """Score ``units`` on a pool of ``count`` processes; returns the seconds it took and the rows it scored."""
    import ray

    from rayclf.scoring.scorer import UnitScorer

    gpu = {"num_gpus": 1} if ray.cluster_resources().get("GPU", 0) else {"num_cpus": 1}
    items = [{"unit": json.dumps(asdict(unit))} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        UnitScorer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        fn_constructor_args=(job,),
        **gpu,
    )
    began, ended, scored, errors = math.inf, 0.0, 0, 0
    try:
        for batch in dataset.iter_batches(batch_size=None):
            began, ended = min(began, float(min(batch["began"]))), max(ended, float(max(batch["ended"])))
            scored += int(sum(batch["rows"]))
            errors += int(sum(batch["errors"]))
            rate = scored / max(ended - began, 1e-9)
            on_event({"kind": "unit", "rows": ready + scored, "of": total, "errors": errors, "rows_per_second": rate})
    except Exception as error:
        raise root_cause(error, "scoring") from error
    return ended - began, scored
