"""What the driver of a scoring job can bear: units that are planned, scheduled, committed and counted, with fake work.

    python tests/benchmarks/driver.py records  [--units 10000000] [--nodes 1000]
    python tests/benchmarks/driver.py schedule [--units 20000] [--workers 2]

``records``: the whole of ``score_units`` and what follows from each record, with a cluster of so many nodes of 8
replicas in the place of Ray: units end in an order that is theirs, and write nothing. Prints units a second of the
driver's own time, the peak of its memory, and what is on the disk. ``schedule``: real Ray Data and a real pool of
processes, whose units do nothing but commit. Prints units a second.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa

from rayclf.scoring import pipeline, scorer
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.progress import Progress
from rayclf.scoring.units import InputFile, Unit, Units, plan_units

SIZE = 65_536


def make_record(unit: str) -> dict[str, Any]:
    """The commit record of a unit, as large as real ones."""
    file = {"path": f"part-{unit}.parquet", "rows": SIZE, "bytes": 7_340_032, "sha256": unit.encode().hex().zfill(64)}
    counts = {"rows": SIZE, "errors": 0, "tokens": SIZE * 100, "bytes": 7_340_032}
    return {"unit": unit, **counts, "files": [file], "began": time.time(), "ended": time.time() + 1}


class FakeCluster:
    """In the place of a dataset of Ray: ``slots`` units are under way, and each takes as long as it happens to take."""

    def __init__(self, units: Sequence[Unit], slots: int) -> None:
        self.units, self.slots = units, slots

    def iter_batches(self, batch_size: None) -> Iterator[dict[str, list[str]]]:
        """The records, in the order in which the units end."""
        chance, under_way = random.Random(1), list[tuple[float, str]]()
        for number, unit in enumerate(self.units):
            heapq.heappush(under_way, (number + chance.expovariate(1 / self.slots), unit.name))
            if len(under_way) >= self.slots:
                yield {"record": [json.dumps(make_record(heapq.heappop(under_way)[1]))]}
        while under_way:
            yield {"record": [json.dumps(make_record(heapq.heappop(under_way)[1]))]}


class FakeScorer:
    """A scorer that commits and does no other work."""

    def __init__(self, job: str) -> None:
        self.manifest = Manifest(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Commit records for units."""
        records = [make_record(json.loads(unit)["name"]) for unit in batch["unit"]]
        for record in records:
            self.manifest.commit(record["unit"], record)
        return {"record": np.asarray([json.dumps(record) for record in records])}


def make_units(count: int) -> Units:
    """So many units in a thousandth as many files, or in one."""
    files = max(1, count // 1000)
    schema = pa.schema([("text", pa.string())])
    names = [f"part-{number:06d}.parquet" for number in range(files)]
    rows = count // files * SIZE
    return plan_units([InputFile(f"s3://corpus/{name}", name, rows, schema, {"size": 1}) for name in names], SIZE)


def run(units: Units, pool: pipeline.Replicas, output: str) -> tuple[float, float]:
    """Seconds by the clock and of this process in which the units' records have come, been counted and folded."""
    began, busy = time.perf_counter(), time.process_time()
    manifest, progress = Manifest(output), Progress(len(units) * SIZE)
    Path(manifest.units).mkdir(parents=True)
    for record in pipeline.score_units(output, units, range(len(units)), pool, manifest):  # type: ignore[arg-type]
        progress.add(record)
        progress.event()
    assert (progress.units, progress.rows) == (len(units), len(units) * SIZE)
    return time.perf_counter() - began, time.process_time() - busy


def records(count: int, nodes: int) -> None:
    """Print what the driver's part costs."""
    units = make_units(count)
    before = peak()
    pool = pipeline.Replicas(nodes * 8, nodes * 8, 0, 1)
    fake = mock.patch.object(pipeline, "_dataset", lambda job, wave, pool: FakeCluster(wave, pool.most))
    with tempfile.TemporaryDirectory() as folder, fake:
        _, busy = run(units, pool, f"{folder}/out")
        files = [file.stat().st_size for file in (Path(folder) / "out/_manifest/units").iterdir()]
        print(f"{len(units):,} units on {nodes:,} nodes: {len(units) / busy:,.0f} units a second of the driver's time")
        print(
            f"peak memory {peak():,.0f} MiB, {before:,.0f} before; {len(files):,} files of {sum(files) / 2**30:.2f} GiB"
        )
        began = time.perf_counter()
        done = {record["unit"] for record in Manifest(f"{folder}/out").records()}
        assert len(done) + len(units) % 1000 >= len(units)
        print(f"read again by a driver that goes on: {time.perf_counter() - began:.0f} s, peak {peak():,.0f} MiB")


def schedule(count: int, workers: int) -> None:
    """Print what Ray Data schedules."""
    from rayclf.cluster import connect

    connect()
    units, pool = make_units(count), pipeline.Replicas(workers, workers, 0, 0.5)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(scorer, "UnitScorer", FakeScorer):
        seconds, busy = run(units, pool, f"{folder}/out")
    print(f"{len(units):,} units by {workers} workers: {len(units) / seconds:.0f} units a second, "
          f"{1000 * busy / len(units):.2f} ms of the driver each, peak memory {peak():,.0f} MiB")  # fmt: skip


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("records")
    command.add_argument("--units", type=int, default=10_000_000)
    command.add_argument("--nodes", type=int, default=1000)
    command = commands.add_parser("schedule")
    command.add_argument("--units", type=int, default=20_000)
    command.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.what == "records":
        records(args.units, args.nodes)
    else:
        schedule(args.units, args.workers)


if __name__ == "__main__":
    sys.exit(main())
