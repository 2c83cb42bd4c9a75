"""How an input is looked at before its units are scored."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from job_folder import begin, write_input

from rayclf.errors import DataError, OutputError
from rayclf.scoring import pipeline
from rayclf.scoring.pipeline import choose_replicas, look_at_input, score
from rayclf.scoring.units import InputFile, look_at


def test_files_are_looked_at_at_once_and_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)

    def look(*told: Any) -> InputFile:
        both.wait(20)  # breaks unless two files are looked at at the same time
        return look_at(*told)

    monkeypatch.setattr(pipeline, "look_at", look)
    files = look_at_input(write_input(tmp_path / "in"))
    assert [(file.source, file.rows) for file in files] == [("a.jsonl", 1100), ("b.jsonl", 600)]


def test_what_a_plan_says_of_an_unchanged_file_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_input(tmp_path / "in")
    manifest, _ = begin(source, tmp_path / "out")
    looked: list[str] = []
    monkeypatch.setattr("rayclf.scoring.units.index_jsonl", lambda path: looked.append(path))
    files = look_at_input(source, manifest)
    assert [file.rows for file in files] == [1100, 600]
    assert looked == []


def test_the_first_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in")
    for name in ("b.jsonl", "c.jsonl"):
        (source / name).write_text("")
    with pytest.raises(DataError, match="b.jsonl: holds no rows"):
        look_at_input(source)


def test_no_job_scores_its_own_output_or_deletes_its_input(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in")
    for output in (source, source / "scored"):
        with pytest.raises(OutputError, match="lies in the input .*in, where scored rows would be scored again"):
            score("no artifact", source, output)
    _, _ = begin(source, tmp_path / "out")
    with pytest.raises(OutputError, match="which --overwrite would delete; choose another output"):
        score("no artifact", tmp_path / "out" / "*.parquet", tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "_manifest" / "plan.json").is_file()


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "units", "expected"),
    [
        (96, 8, 1, 1000, (8, 88)),  # the CPUs that no replica has
        (96, 8, 0.5, 1000, (16, 80)),
        (16, 8, 1, 1000, (8, 16)),  # two a replica, at the least
        (96, 8, 1, 20, (8, 20)),  # no more than there are units
        (8, 0, 1, 1000, (7, 0)),  # replicas on CPUs read themselves
    ],
)
def test_as_many_processes_read_as_there_are_cpus_left(
    cpus: int, gpus: int, share: float, units: int, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": cpus, "GPU": gpus})
    pool = choose_replicas(None, share, units)
    assert (pool.most, pool.readers) == expected
