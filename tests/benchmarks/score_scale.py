"""Offline scoring as it grows: memory with the input, rate with the workers, and what Ray costs.

    python tests/benchmarks/score_scale.py memory   [--rows 100000,1000000] [--words 24]
    python tests/benchmarks/score_scale.py workers  [--rows 200000] [--pairs 3]
    python tests/benchmarks/score_scale.py pipeline ARTIFACT ROWS [--pairs 3]
    python tests/benchmarks/score_scale.py plan     [--units 10000000] [--files 10000]
    python tests/benchmarks/score_scale.py requests [--rows 4000] [--words 24]

``memory``: the peak of all processes of a job (PSS) and its time a row, with a tiny random BERT, over inputs of several
sizes. ``workers``: one replica on one core against two on two. ``pipeline``: ``rayclf score`` with a replica for each
of two cores against the engine alone in one process on both, from texts to probabilities. By turns, medians of the
ratios; Ray's start and the loading of the model are counted nowhere. ``plan``: what a driver holds for so many units,
without any rows: the plan, the places that are left, the names that are done. ``requests``: those that a job sends to a
real S3 server, by what it does.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from peak import peak_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from s3 import Relay, S3Server

RAYCLF = str(Path(sys.executable).with_name("rayclf"))
WORDS = tuple("cell court bank energy membrane contract interest organelle party rate term loan".split())  # noqa: SIM905


def write_rows(file: Path, rows: int, words: int = 24) -> Path:
    """``rows`` texts of a sixth of ``words`` to ``words`` words, in one Parquet file."""
    chance = random.Random(1)
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, 50_000):
            texts = [
                " ".join(chance.choices(WORDS, k=chance.randint(words // 6, words))) + f" {row}"
                for row in range(start, min(rows, start + 50_000))
            ]
            writer.write_table(pa.table({"text": texts}, schema=schema))
    return file


def tiny(folder: Path) -> Path:
    """The artifact of a tiny random BERT."""
    from tiny import make_classifier, write_backbone

    return make_classifier(write_backbone(folder / "bert", "bert")).save(folder / "artifact")


def summary(output: Path) -> dict[str, float]:
    """What a job told at its end."""
    told: dict[str, float] = json.loads((output / "_manifest" / "summary.json").read_text())
    return told


def memory(rows: list[int], words: int) -> None:
    """Print the peak and the time a row for each number of rows, and the ratios of the last to the first."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact = tiny(folder)
        for count in rows:
            file, output = write_rows(folder / f"{count}.parquet", count, words), folder / f"out-{count}"
            _, peak = peak_of([RAYCLF, "score", str(artifact), str(file), str(output), "--replicas", "1", "--json"])
            told = summary(output)
            found.append((peak, told["seconds"] / count))
            print(f"{count:,} rows in {told['units']} units: peak {peak:.0f} MiB, "
                  f"{1e6 * found[-1][1]:.0f} µs a row", flush=True)  # fmt: skip
    (small, before), (large, after) = found[0], found[-1]
    print(f"peak {large / small:.2f}, time a row {after / before:.2f}")


def scored(artifact: str, file: str, output: Path, cores: set[int], replicas: int) -> float:
    """Rows a second of ``rayclf score`` on some cores."""
    command = [
        RAYCLF,
        "score",
        artifact,
        file,
        str(output),
        "--replicas",
        str(replicas),
        "--precision",
        "fp32",
        "--json",
    ]
    _on(cores, command)
    return summary(output)["rows_per_second"]


def _on(cores: set[int], command: list[str]) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pin = lambda: os.sched_setaffinity(0, cores)  # noqa: E731
    done = subprocess.run(command, env=environment, preexec_fn=pin, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def workers(rows: int, pairs: int) -> None:
    """Print the ratio of the rates of two workers and one."""
    both = sorted(os.sched_getaffinity(0))[:2]
    if len(both) < 2:
        raise SystemExit("needs two cores")
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact, file = str(tiny(folder)), str(write_rows(folder / "rows.parquet", rows))
        for pair in range(pairs):
            one = scored(artifact, file, folder / f"one-{pair}", {both[0]}, 1)
            two = scored(artifact, file, folder / f"two-{pair}", set(both), 2)
            ratios.append(two / one)
            print(f"pair {pair + 1}: one {one:.0f} rows/s, two {two:.0f}, ratio {two / one:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


def pipeline(artifact: str, file: str, pairs: int) -> None:
    """Print the ratio of the rates of the pipeline and the engine alone."""
    both = set(sorted(os.sched_getaffinity(0))[-2:])
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        for pair in range(pairs):
            alone = float(_on(both, [sys.executable, __file__, "alone", artifact, file]).split()[-1])
            ours = scored(artifact, file, Path(name) / str(pair), both, len(both))
            ratios.append(ours / alone)
            print(f"pair {pair + 1}: alone {alone:.1f} rows/s, pipeline {ours:.1f}, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}")


def alone(artifact: str, file: str) -> None:
    """Print the rows a second of the engine in this process, texts in memory."""
    import torch

    from rayclf import Classifier
    from rayclf.data.formats import read_table

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    table = read_table(file)
    classifier = Classifier.load(artifact, precision="fp32", expected_rows=table.num_rows)
    texts = table[classifier.info.reads.columns[0]].to_pylist()
    classifier.probabilities(texts[:64])  # warms up
    began = time.perf_counter()
    classifier.probabilities(texts)
    print(len(texts) / (time.perf_counter() - began))


def plan(count: int, files: int) -> None:
    """Print bytes and seconds of what a driver holds for ``count`` units of 65,536 rows in ``files`` files."""
    from rayclf.scoring.units import InputFile, plan_units

    size, each = 65_536, count // files
    schema = pa.schema([("text", pa.string())])
    inputs = [InputFile(f"s3://corpus/part-{n:06d}.parquet", f"part-{n:06d}.parquet", each * size, schema, {"size": 1})
              for n in range(files)]  # fmt: skip
    began = time.perf_counter()
    units = plan_units(inputs, size)
    print(f"plan of {len(units):,} units in {files:,} files: {time.perf_counter() - began:.2f} s")
    few = min(len(units), 100_000)
    began = time.process_time()
    first = [unit.name for unit in islice(units, few)]
    print(f"going through it: {1e6 * (time.process_time() - began) / few:.1f} µs of CPU a unit")
    done = {f"{file:05d}-{number:06d}" for file in range(files) for number in range(each)}
    assert set(first) <= done
    print(f"names of units that are done: {_told(sys.getsizeof(done) + sum(map(sys.getsizeof, done)), len(done))}")
    todo = list(range(len(units)))
    print(f"places of units that are left: {_told(sys.getsizeof(todo) + sum(map(sys.getsizeof, todo)), len(todo))}")


def _told(size: int, count: int) -> str:
    return f"{size / 2**20:,.0f} MiB, {size / count:.0f} bytes each"


class Counter(Relay):
    """Passes requests on to a server and counts them by method; listings apart."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.counts: collections.Counter[str] = collections.Counter()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        def heard(data: bytes) -> bytes:
            for method, target in re.findall(rb"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP/1.1\r\n", data):
                self.counts["LIST" if b"list-type=" in target else method.decode()] += 1
            return data

        super()._up(cast("socket.socket", _Heard(client, heard)), server)


class _Heard:
    """A socket whose bytes somebody hears."""

    def __init__(self, end: socket.socket, heard: Callable[[bytes], bytes]) -> None:
        self._end, self._heard = end, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._end, name)

    def __hash__(self) -> int:
        return hash(self._end)

    def __eq__(self, other: object) -> bool:
        return self._end == other

    def recv(self, size: int) -> bytes:
        return self._heard(self._end.recv(size))


def requests(rows: int, words: int) -> None:
    """Print the requests of a job of two files, by what it does, without Ray."""
    from rayclf import storage
    from rayclf.scoring.job import make_job
    from rayclf.scoring.manifest import Manifest
    from rayclf.scoring.pipeline import look_at_input
    from rayclf.scoring.scorer import UnitScorer
    from rayclf.scoring.units import plan_units
    from rayclf.scoring.verify import verify

    with tempfile.TemporaryDirectory() as name, S3Server() as server, Counter(server.endpoint) as relay:
        folder, bucket = Path(name), server.new_bucket()
        os.environ |= {**server.variables(), "AWS_ENDPOINT_URL": relay.endpoint}
        artifact, table = str(tiny(folder)), pq.read_table(write_rows(folder / "rows.parquet", rows, words))
        for form in ("parquet", "jsonl"):
            with storage.write_whole(f"s3://{bucket}/in/rows.{form}") as file:
                if form == "parquet":
                    pq.write_table(table, file, row_group_size=rows)
                else:
                    file.write("".join(json.dumps(row) + "\n" for row in table.to_pylist()).encode())

        def told(what: str, each: int, one: str) -> None:
            counts = ", ".join(f"{method} {count / each:g}" for method, count in sorted(relay.counts.items()))
            print(f"{what}, {one}: {counts or 'none'}")
            relay.counts.clear()

        relay.counts.clear()
        manifest = Manifest(f"s3://{bucket}/out")
        files = look_at_input(f"s3://{bucket}/in", manifest)
        told("find and look at the input", 1, "two files")
        job = make_job(artifact, files, manifest.output, {})
        manifest.open({"files": [file.to_json(512) for file in files], "rows_a_unit": 512}, False)
        told("begin", 1, "once")
        scorer, records = UnitScorer(job), []
        for form, file in zip(("JSONL", "Parquet"), files, strict=True):
            units = plan_units([file], 512)
            for unit in units:
                scorer.reader(unit)
            told(f"read {form}", len(units), "a unit")
        units = plan_units(files, 512)
        tables = [scorer.reader(unit) for unit in units]
        relay.counts.clear()
        for unit, read in zip(units, tables, strict=True):
            records.append(scorer.score(unit, read))
        told("write and commit", len(units), "a unit")
        manifest.write_progress({"state": "running"})
        told("tell progress", 1, "every 10 seconds")
        manifest.fold(records)
        told("fold", len(records), "a unit")
        list(manifest.records())
        told("read the records", 1, "a file of up to 1,000")
        verify(manifest.output)
        told("verify", len(records), "a unit")


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    command = commands.add_parser("memory")
    command.add_argument("--rows", default="100000,1000000")
    command.add_argument("--words", type=int, default=24)
    command = commands.add_parser("workers")
    command.add_argument("--rows", type=int, default=200_000)
    command.add_argument("--pairs", type=int, default=3)
    for name in ("pipeline", "alone"):
        command = commands.add_parser(name)
        command.add_argument("artifact")
        command.add_argument("file", metavar="ROWS")
        command.add_argument("--pairs", type=int, default=3)
    command = commands.add_parser("plan")
    command.add_argument("--units", type=int, default=10_000_000)
    command.add_argument("--files", type=int, default=10_000)
    command = commands.add_parser("requests")
    command.add_argument("--rows", type=int, default=4000)
    command.add_argument("--words", type=int, default=24)
    args = parser.parse_args()
    if args.what == "memory":
        memory([int(number) for number in args.rows.split(",")], args.words)
    elif args.what == "workers":
        workers(args.rows, args.pairs)
    elif args.what == "pipeline":
        pipeline(args.artifact, args.file, args.pairs)
    elif args.what == "alone":
        alone(args.artifact, args.file)
    elif args.what == "requests":
        requests(args.rows, args.words)
    else:
        plan(args.units, args.files)


if __name__ == "__main__":
    main()
