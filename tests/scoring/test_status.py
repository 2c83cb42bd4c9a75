"""The state of a job, told by its folder: planned, running, dead, failed or done."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_folder import begin, run, write_input

from rayclf.errors import OutputError
from rayclf.scoring.status import busy_seconds, status


def test_the_life_of_a_job(tmp_path: Path) -> None:
    source, output = write_input(tmp_path / "in"), tmp_path / "out"
    manifest, units = begin(source, output, price_per_hour=7200.0)
    found = status(output)
    assert (found.state, found.units_done, found.units, found.rows_done, found.rows) == ("planned", 0, 5, 0, 1700)
    assert (found.rows_per_second, found.seconds_left, found.dollars) == (None, None, 0.0)

    manifest.write_progress({"state": "running", "rows_per_second": 100.0})
    assert status(output).state == "running"
    run(manifest, units[:2])
    found = status(output)
    assert (found.state, found.units_done, found.rows_done, found.tokens) == ("running", 2, 1024, 2048)
    assert (found.rows_per_second, found.seconds_left) == (100.0, pytest.approx(6.76))
    assert (found.seconds, found.dollars) == (2.0, 4.0)

    dead = status(output, now=time.time() + 100)
    assert (dead.state, dead.rows_per_second, dead.seconds_left) == ("stopped", 512.0, pytest.approx(676 / 512))

    manifest.write_progress({"state": "stopped"})
    assert status(output).state == "stopped"

    manifest.write_progress({"state": "failed", "price_per_hour": 3600.0})
    found = status(output)
    assert (found.state, found.dollars) == ("failed", 2.0)

    manifest.write_progress({"state": "failed", "dollars": 9.5})
    assert status(output).dollars == 9.5

    manifest, rest = begin(source, output, price_per_hour=7200.0)
    run(manifest, rest, began=1000.0)
    found = status(output)  # though the driver died before it could say so
    assert (found.state, found.units_done, found.rows_done, found.errors) == ("done", 5, 1700, 0)
    assert (found.seconds, found.seconds_left) == (5.0, 0.0)


def test_a_job_that_died_before_its_first_word(tmp_path: Path) -> None:
    manifest, units = begin(write_input(tmp_path / "in"), tmp_path / "out")
    run(manifest, units[:1])
    found = status(tmp_path / "out")
    assert (found.state, found.dollars) == ("stopped", None)


def test_no_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not the output of rayclf score"):
        status(tmp_path)


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted).map(tuple))


@given(spans)
def test_busy_seconds_count_each_second_once(spans: list[tuple[int, int]]) -> None:
    assert busy_seconds(spans) == len({second for began, ended in spans for second in range(began, ended)})
