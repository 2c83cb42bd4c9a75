"""Scoring processes and drivers are killed in the middle of a job: its output is that of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

import rayclf
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.status import status
from rayclf.scoring.verify import verify

ROWS = 8_000
DRIVER = "import sys, rayclf; rayclf.score(*sys.argv[1:4], replicas=1)"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 units."""
    file = tmp_path_factory.mktemp("corpus") / "rows.parquet"
    pq.write_table(pa.table({"question": [f"which cell number {i} " * (i % 20 + 1) for i in range(ROWS)]}), file)
    return file


@pytest.fixture(scope="module")
def undisturbed(encoder_run: rayclf.Run, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a job that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    rayclf.score(encoder_run.artifact, corpus, out, replicas=1)
    return out


@pytest.fixture(scope="module")
def expected(undisturbed: Path) -> pa.Table:
    """What it says."""
    return content(undisturbed)


def content(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted(out.glob("part-*.parquet"))).combine_chunks()


def wait_for(happened: Callable[[], object]) -> None:
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


def committed(out: Path) -> int:
    return len(list((out / "_manifest" / "units").glob("*.json")))


def scorers() -> list[int]:
    """The processes of the pool, by what Ray calls them, of the Ray of these tests."""
    import psutil  # Ray brings it

    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if child.name().startswith("ray::MapWorker")]


def test_a_killed_scorer_is_replaced(encoder_run: rayclf.Run, corpus: Path, expected: pa.Table, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: committed(out) >= 2)
        for pid in scorers():
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    summary = rayclf.score(encoder_run.artifact, corpus, out, replicas=1)
    thread.join()
    assert killed
    assert summary.rows == ROWS
    assert content(out).equals(expected)
    assert verify(out).rows == ROWS


def test_a_killed_driver_is_gone_on_from(
    encoder_run: rayclf.Run, corpus: Path, expected: pa.Table, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-c", DRIVER, str(encoder_run.artifact), str(corpus), str(out)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_for(lambda: committed(out) >= 2 or driver.poll() is not None)
    assert driver.poll() is None
    driver.kill()
    driver.wait()
    before = status(out, now=time.time() + 3600)
    assert before.state == "stopped"
    assert 0 < before.rows_done < ROWS
    times = {file: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    done = {file.stem for file in (out / "_manifest" / "units").glob("*.json")}
    summary = rayclf.score(encoder_run.artifact, corpus, out, replicas=1)
    assert 0 < summary.scored_rows < ROWS
    assert content(out).equals(expected)
    kept = [file for file in times if file.stem.removeprefix("part-") in done]
    assert kept
    assert all(file.stat().st_mtime_ns == times[file] for file in kept)
    assert status(out).state == "done"
    assert verify(out).rows == ROWS


def test_too_many_errors_stop_the_job_where_it_can_go_on(encoder_run: rayclf.Run, tmp_path: Path) -> None:
    file, out = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(pa.table({"question": [None if i % 2 else f"cell {i}" for i in range(3000)]}), file)
    with pytest.raises(rayclf.UserError, match="rows have errors, more than --max-errors 10; see the column 'error'"):
        rayclf.score(encoder_run.artifact, file, out, max_errors=10)
    assert Manifest(out).progress()["state"] == "failed"  # the units in flight may have ended all the same
    summary = rayclf.score(encoder_run.artifact, file, out)
    assert (summary.rows, summary.errors) == (3000, 1500)
    assert status(out).state == "done"


def test_a_forecast_writes_nothing_and_knows_the_size(encoder_run: rayclf.Run, corpus: Path, undisturbed: Path) -> None:
    found = rayclf.forecast(encoder_run.artifact, corpus, price_per_hour=3600, replicas=1)
    assert (found.rows, found.units, found.replicas, found.error_rows) == (ROWS, 16, 1, 0)
    assert found.dollars == pytest.approx(found.seconds)
    written = sum(file.stat().st_size for file in undisturbed.glob("part-*.parquet"))
    assert found.output_bytes == pytest.approx(written, rel=0.5)
