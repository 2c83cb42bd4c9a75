"""What a scoring job would take: a few units are scored, nothing is written, the rest is arithmetic."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import pyarrow.parquet as pq

from rayclf.cluster import connect, cores, root_cause
from rayclf.scoring.job import ScoreJob, ScoreOptions, make_job
from rayclf.scoring.pipeline import Replicas, choose_replicas, look_at_input
from rayclf.scoring.units import Unit, plan_units, rows_a_unit

_SAMPLES = 4
_SAMPLE_ROWS = 512


@dataclass(frozen=True)
class Forecast:
    """What scoring the whole input is expected to take, from ``sample_rows`` that were scored.

    ``seconds`` is of all replicas at work, their start-up apart; ``output_bytes`` is of the Parquet files;
    ``error_rows`` those expected to come out with an error; ``dollars`` None without a price.
    """

    rows: int
    units: int
    replicas: int
    sample_rows: int
    tokens: int
    error_rows: int
    rows_per_second: float
    seconds: float
    output_bytes: int
    dollars: float | None


def forecast(
    artifact: str | os.PathLike[str],
    source: str | os.PathLike[str],
    *,
    replicas: int | tuple[int, int] | None = None,
    gpus_per_replica: float = 1,
    price_per_hour: float | None = None,
    **options: Unpack[ScoreOptions],
) -> Forecast:
    """Score a few rows from all over the input on one replica, and tell time, cost and size of the whole.

    The settings are those of :func:`rayclf.score`. It is taken that replicas do not slow each other down: that each
    has its own cores or GPU. Raises UserError as that does.
    """
    import ray

    files = look_at_input(source)
    job = make_job(artifact, files, "", options)
    total = sum(file.rows for file in files)
    units = plan_units(files, rows_a_unit(total))
    connect()
    pool = choose_replicas(replicas, gpus_per_replica, len(units))
    places = np.unique(np.linspace(0, len(units) - 1, _SAMPLES).astype(int))
    job = replace(job, threads=max(1, cores() // pool.most))
    try:
        found = ray.get(_sampler(pool).remote(job, [units[int(place)] for place in places]))
    except Exception as error:
        raise root_cause(error, "scoring a sample") from error
    rate = found["rows"] / found["seconds"] * pool.most
    seconds = total / rate
    share = total / found["rows"]
    return Forecast(
        total,
        len(units),
        pool.most,
        found["rows"],
        round(found["tokens"] * share),
        round(found["errors"] * share),
        rate,
        seconds,
        round(found["bytes"] * share),
        None if price_per_hour is None else price_per_hour * seconds / 3600,
    )


def _sampler(pool: Replicas) -> Any:
    import ray

    return ray.remote(**pool.resources)(sample)


def sample(job: ScoreJob, units: list[Unit]) -> dict[str, Any]:
    """Score the first rows of some units as a replica would: rows, errors, tokens, seconds and Parquet bytes."""
    from rayclf.scoring.scorer import UnitScorer

    scorer = UnitScorer(job)
    found = {"rows": 0, "errors": 0, "tokens": 0, "bytes": 0, "seconds": 0.0}
    for number, unit in enumerate(units):
        began = time.perf_counter()
        table = scorer.reader(unit)
        size = min(_SAMPLE_ROWS, table.num_rows)
        found["seconds"] += (time.perf_counter() - began) * size / table.num_rows
        table = table.slice((table.num_rows - size) // 2, size)
        if number == 0:
            scorer.classify(table.slice(0, 64))  # the first batches also warm up what computes
        began = time.perf_counter()
        result, tokens = scorer.classify(table)
        content = io.BytesIO()
        pq.write_table(result, content, compression="zstd")
        found["seconds"] += time.perf_counter() - began
        found["rows"] += size
        found["errors"] += size - result["error"].null_count
        found["tokens"] += tokens
        found["bytes"] += content.tell()
    return found
