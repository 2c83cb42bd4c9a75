"""Score an input of any size with Ray Data: every row once, in files that appear whole, resumable at any moment."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from rayclf import storage
from rayclf.cluster import connect, cores, native_stderr_to, require_cpus, root_cause
from rayclf.errors import ConfigError, DataError, OutputError, UserError, one_line
from rayclf.job_metrics import ScoreGauges
from rayclf.scoring.job import ScoreJob, ScoreOptions, make_job
from rayclf.scoring.manifest import FORMAT, Manifest
from rayclf.scoring.progress import Progress, push_summary
from rayclf.scoring.units import InputFile, Unit, Units, find_files, look_at, plan_units, rows_a_unit
from rayclf.storage_errors import shown

if TYPE_CHECKING:
    import ray.data

OnEvent = Callable[[dict[str, Any]], None]
_WAVE = 10_000  # units that Ray Data is given at once: it keeps some kilobytes for each in the driver
_FOLDED = 1_000  # commit records that become one file
_BEAT_S = 10.0
_AT_ONCE = 16  # files that are looked at


@dataclass(frozen=True)
class ScoreSummary:
    """What a scoring job did. ``rows``, ``errors`` and ``tokens`` count the whole output, ``scored_rows`` this run's;
    ``seconds`` is the time from the first unit's begin to the last one's end, loading not counted; ``dollars`` those
    of all runs, where a price was given."""

    output: str
    rows: int
    errors: int
    tokens: int
    units: int
    scored_rows: int
    seconds: float
    rows_per_second: float
    dollars: float | None = None


@dataclass(frozen=True)
class Replicas:
    """The processes that score: at least and at most how many, what each of them holds, and with GPUs at most how many
    processes read for them."""

    least: int
    most: int
    gpus: float
    cpus: float
    readers: int = 0

    @property
    def resources(self) -> dict[str, float]:
        """As Ray takes them."""
        return {"num_gpus": self.gpus, "num_cpus": self.cpus} if self.gpus else {"num_cpus": self.cpus}


def score(
    artifact: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    replicas: int | tuple[int, int] | None = None,
    gpus_per_replica: float = 1,
    max_errors: int | None = None,
    price_per_hour: float | None = None,
    push_gateway: str | None = None,
    overwrite: bool = False,
    on_event: OnEvent = lambda event: None,
    **options: Unpack[ScoreOptions],
) -> ScoreSummary:
    """Score a file, a folder of files or a glob, local or in object storage, into a folder of Parquet files.

    The output has one row for each input row: the kept columns, ``id``, ``label``, ``score``, ``labels``,
    ``probabilities``, and ``error`` where a row has nothing that can be scored; :class:`ScoreOptions` changes what is
    read and said. Calling it again finishes what is missing and rewrites nothing.

    ``replicas`` are the processes that score, a number or the least and the most of them: one a GPU, else one a core,
    when unset; ``gpus_per_replica`` may be a fraction. After more than ``max_errors`` rows with errors the job stops.
    ``price_per_hour`` is of the whole cluster. ``push_gateway`` is the address of a Prometheus push gateway that is
    told of the end. ``on_event`` gets ``{"kind": "plan", …}`` and then ``{"kind": "unit", "rows": done, "of": total,
    …}``. Raises UserError for what the caller can mend, before anything is written.
    """
    manifest = Manifest(os.fspath(output))
    if storage.is_inside(output, source):
        where = f"lies in the input {shown(source)}, where scored rows would be scored again"
        raise OutputError(f"{shown(output)}: {where}; choose another OUTPUT")
    if overwrite:
        storage.keep_inputs(output, [source])
    files = look_at_input(source, manifest)
    job = make_job(artifact, files, manifest.output, options)
    total = sum(file.rows for file in files)
    size = rows_a_unit(total)
    plan = {"format": FORMAT, **job.settings(), "rows_a_unit": size, "files": [file.to_json(size) for file in files]}
    done = manifest.open({**plan, "price_per_hour": price_per_hour}, overwrite)
    units = plan_units(files, size)
    todo = [place for place, unit in enumerate(units) if unit.name not in done]
    ready = total - sum(units[place].rows for place in todo)
    on_event({"kind": "plan", "units": len(units), "rows": total, "done": ready})
    progress = Progress(total, ready, price_per_hour, float(manifest.progress().get("seconds_spent", 0)))
    if todo:
        connect()
        pool = choose_replicas(replicas, gpus_per_replica, len(todo))
        job = replace(job, threads=max(1, cores() // pool.most))
        with _told(manifest, progress), ScoreGauges(output=manifest.output) as gauges:
            for record in score_units(job, units, todo, pool, manifest):
                progress.add(record)
                gauges.event(told := progress.event())
                on_event(told)
                if max_errors is not None and progress.errors > max_errors:
                    raise DataError(
                        f"{os.fspath(source)}: {progress.errors} rows have errors, more than --max-errors "
                        f"{max_errors}; see the column 'error' in {manifest.output}; the same command goes on"
                    )
    if job.columns.by_label:
        manifest.drop_strays()
    totals = manifest.totals()
    summary = ScoreSummary(
        str(manifest.output),
        **{name: totals[name] for name in ("rows", "errors", "tokens")},
        units=len(units),
        scored_rows=progress.rows,
        seconds=progress.seconds,
        rows_per_second=progress.rows_per_second,
        dollars=progress.event()["dollars"],
    )
    if todo:
        manifest.write_summary(asdict(summary))
    if push_gateway:
        push_summary(push_gateway, asdict(summary))
    return summary


def look_at_input(source: str | os.PathLike[str], manifest: Manifest | None = None) -> list[InputFile]:
    """The input's files in their order, 16 looked at at once: there may be many, each some requests to a storage away.

    What the plan of an earlier run, in ``manifest``, says of a file that has not changed is not counted again. Raises
    DataError for the first file that cannot be read.
    """
    saved = ((manifest and manifest.saved()) or {}).get("files", [])
    known = {told["path"]: told for told in saved if isinstance(told, dict)}
    found = find_files(source)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(look_at, found, found.values(), map(known.get, found)))


def choose_replicas(asked: int | tuple[int, int] | None, gpus: float, units: int) -> Replicas:
    """How many processes score: one for each share of a GPU, else one a core, unless asked otherwise.

    Raises ResourceError where the cluster has not the CPUs for the fewest.
    """
    import ray

    there = ray.cluster_resources()
    has_gpus = there.get("GPU", 0) > 0
    by_gpus = int(there.get("GPU", 0) / gpus)
    # A CPU stays free for what reads, or for Ray's own short tasks.
    default = by_gpus if has_gpus else max(1, int(there.get("CPU", 1)) - 1)
    least, most = asked if isinstance(asked, tuple) else (asked or default,) * 2
    if not 1 <= least <= most:
        raise ConfigError(f"--replicas {least},{most}: must be at least 1, and the first number the smaller")
    least, most = min(least, units), min(most, units)
    if not has_gpus:
        require_cpus(least, f"scoring with {least} replicas", "lower --replicas")
        return Replicas(least, most, 0, 1)
    # Ray Data starts more of them only while replicas wait; more nodes than there are now may come.
    return Replicas(least, most, gpus, 1, readers=min(units, max(2 * most, int(there.get("CPU", 0)) - most)))


@contextmanager
def _told(manifest: Manifest, progress: Progress) -> Iterator[None]:
    """Keep the job's state in its folder, for ``--status``: running, told again every few seconds, then done, stopped
    (Ctrl-C) or failed."""
    ended = threading.Event()

    def write(state: str, **more: str) -> None:
        manifest.write_progress({"state": state, **progress.event(), **more})

    def beat() -> None:
        while not ended.wait(_BEAT_S):
            with suppress(UserError):  # a storage that is away for a moment; what must be written tells of it
                write("running")

    write("running")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    state, more = "done", {}
    try:
        yield
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except BaseException as error:
        state, more = "failed", {"error": one_line(error, 500)}
        raise
    finally:
        ended.set()
        thread.join()
        with suppress(UserError):
            write(state, **more)


def score_units(
    job: ScoreJob, units: Units, todo: Sequence[int], pool: Replicas, manifest: Manifest
) -> Iterator[dict[str, Any]]:
    """Score the units at the places ``todo`` on a pool of processes; yields the commit record of each as it is done."""
    local = "://" not in manifest.output
    folded: list[dict[str, Any]] = []
    with native_stderr_to(manifest.place("_manifest/ray.log") if local else os.devnull):
        try:
            for start in range(0, len(todo), _WAVE):
                wave = [units[place] for place in todo[start : start + _WAVE]]
                for batch in _dataset(job, wave, pool).iter_batches(batch_size=None):
                    for record in map(json.loads, batch["record"]):
                        yield record
                        folded.append(record)
                        if len(folded) == _FOLDED:
                            manifest.fold(folded)
                            folded = []
        except Exception as error:
            raise root_cause(error, "scoring") from error


def _dataset(job: ScoreJob, units: Sequence[Unit], pool: Replicas) -> ray.data.Dataset:
    """Units to commit records. With GPUs, CPU workers read and tokenize ahead of the replicas; without, the replicas
    do, because anybody else would take the same cores."""
    import ray

    from rayclf.scoring.scorer import UnitScorer

    items = [{"unit": json.dumps(asdict(unit))} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if pool.gpus:
        dataset = dataset.map(_Read, fn_constructor_args=(job,), num_cpus=1, concurrency=(1, pool.readers))
    return dataset.map_batches(
        UnitScorer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=pool.least, max_size=pool.most),
        fn_constructor_args=(job,),
        **pool.resources,
    )


class _Read:
    """Reads and tokenizes units on a CPU worker."""

    def __init__(self, job: ScoreJob) -> None:
        from rayclf.scoring.reading import UnitReader

        self.read = UnitReader(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from rayclf.scoring.reading import pack

        unit = Unit(**json.loads(row["unit"]))
        return dict(pack(unit, self.read(unit)))
