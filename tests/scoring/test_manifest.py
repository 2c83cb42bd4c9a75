"""The manifest: a job is begun, gone on with, or refused, and its folder tells the truth whenever a process dies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayclf import storage
from rayclf.errors import OutputError
from rayclf.scoring.manifest import Manifest

FILES = [{"path": "x", "rows": 3, "size": 1}, {"path": "y", "rows": 4, "size": 2}]
PLAN = {"format": 1, "artifact": "abc", "text": "body", "files": FILES}


def commit(manifest: Manifest, unit: str, rows: int = 3, partition: str = "") -> dict[str, Any]:
    """Write a part of ``rows`` rows and its record."""
    table = pa.table({"id": [f"{unit}#{row}" for row in range(rows)]})
    record = {
        "unit": unit,
        "rows": rows,
        "errors": 1,
        "tokens": rows * 3,
        "files": [manifest.write_part(unit, table, partition)],
    }
    manifest.commit(unit, record)
    return record


def opened(folder: Path) -> Manifest:
    """The manifest of a new job."""
    manifest = Manifest(folder)
    assert manifest.open(PLAN, overwrite=False) == set()
    return manifest


def test_files_that_stand_in_no_record_are_dropped(tmp_path: Path) -> None:
    manifest = opened(tmp_path / "out")
    manifest.fold([commit(manifest, "0-1", partition="label=a b")])
    commit(manifest, "0-2", partition="label=b")
    manifest.write_part("0-2", pa.table({"id": ["0-2#1"]}), "label=a b")  # of an attempt that never came to its record
    manifest.write_part("0-3", pa.table({"id": ["0-3#1"]}), "label=b")  # whose record was not found: it may be there
    (tmp_path / "out/label=a b/notes.txt").write_text("somebody's own")
    manifest.drop_strays()
    assert [part.name for part in manifest.parts()] == [
        "label=a b/part-0-1.parquet",
        "label=b/part-0-2.parquet",
        "label=b/part-0-3.parquet",
    ]
    assert (tmp_path / "out/label=a b/notes.txt").exists()


def test_a_job_goes_on_with_what_is_done(tmp_path: Path) -> None:
    manifest = opened(tmp_path / "out")
    first = commit(manifest, "0-1", 3)
    second = commit(manifest, "0-2", 2, "label=a b")
    manifest.write_part("0-3", pa.table({"id": ["x"]}))  # a file without its record is a unit that is not done
    again = Manifest(tmp_path / "out")
    assert again.open(PLAN, overwrite=False) == {"0-1", "0-2"}
    assert again.totals() == {"rows": 5, "errors": 2, "tokens": 15}
    assert list(again.records()) == [first, second]
    assert again.saved() == PLAN
    assert [part.name for part in again.parts()] == [
        "label=a b/part-0-2.parquet",
        "part-0-1.parquet",
        "part-0-3.parquet",
    ]
    assert second["files"][0]["path"] == "label=a b/part-0-2.parquet"
    assert pq.read_table(tmp_path / "out/label=a b/part-0-2.parquet").num_rows == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifact": "xyz"}, "artifact is 'xyz', was 'abc'"),
        ({"artifact": "0123456789ab" + 52 * "c"}, r"artifact is another one \(0123456789ab…\), was 'abc'"),
        ({"files": []}, "the input files changed: x is no longer among them"),
        ({"files": FILES[:1]}, "the input files changed: y is no longer among them"),
        ({"files": [*FILES, {"path": "z"}]}, "the input files changed: z is new"),
        ({"files": [FILES[0], {**FILES[1], "size": 3}]}, r"the input files changed: y has another size \(2, now 3\)"),
        ({"files": FILES[::-1]}, "the input files changed: their order"),
        ({"more": 1}, "more is 1, was None"),
    ],
)
def test_another_job_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    manifest = opened(tmp_path)
    commit(manifest, "0-1")
    manifest.fold([commit(manifest, "0-2", partition="label=a")])
    manifest.write_progress({"state": "running"})
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=words):
        manifest.open({**PLAN, **change}, overwrite=False)
    assert manifest.open({**PLAN, **change}, overwrite=True) == set()
    assert manifest.saved() == {**PLAN, **change}
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"notes.txt", "plan.json"}


def test_a_price_may_change(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    assert manifest.open({**PLAN, "price_per_hour": 2.5}, overwrite=False) == set()


def test_other_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not the output of rayclf score"):
            Manifest(tmp_path).open(PLAN, overwrite)
    with pytest.raises(OutputError, match="is a file"):
        Manifest(tmp_path / "thesis.txt").open(PLAN, overwrite=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_records_without_a_plan_are_not_taken_for_a_new_job(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    commit(manifest, "0-1")
    (tmp_path / "_manifest/plan.json").unlink()
    (tmp_path / "part-0-1.parquet").unlink()
    with pytest.raises(OutputError, match="not the output of rayclf score"):
        manifest.open(PLAN, overwrite=False)


@pytest.mark.parametrize("deletions", range(12))
def test_an_overwrite_that_dies_leaves_a_job_that_tells_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deletions: int
) -> None:
    manifest = opened(tmp_path)
    manifest.fold([commit(manifest, f"0-{n}") for n in range(3)])
    for n in range(3, 6):
        commit(manifest, f"0-{n}", partition="label=a")
    left = [deletions]
    unlink = storage.delete_files

    def dies(paths: Any) -> None:
        for path in paths:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= os.path.exists(path)
            unlink([path])

    monkeypatch.setattr(storage, "delete_files", dies)
    other = {**PLAN, "artifact": "xyz"}
    try:
        Manifest(tmp_path).open(other, overwrite=True)
    except KeyboardInterrupt:
        done = Manifest(tmp_path).open(PLAN, overwrite=False)  # the old job
        there = {part.path for part in manifest.parts()}
        files = [file["path"] for record in manifest.records() for file in record["files"]]
        assert len(files) == len(done)
        assert {manifest.place(file) for file in files} <= there
        with pytest.raises(OutputError, match="another job"):
            Manifest(tmp_path).open(other, overwrite=False)
    else:
        assert deletions > 10
    monkeypatch.undo()
    assert Manifest(tmp_path).open(other, overwrite=bool(left[0] == 0)) == set()
    assert manifest.parts() == []


def test_folded_records_are_read_once_each(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    records = [commit(manifest, f"0-{n}") for n in range(5)]
    manifest.fold(records[:2])
    manifest.fold(records[2:4])
    assert len(list((tmp_path / "_manifest/units").iterdir())) == 3
    manifest.commit("0-0", records[0])  # a fold that died before it had deleted what it had folded
    assert sorted(manifest.records(), key=lambda record: str(record["unit"])) == records
    assert manifest.totals()["rows"] == 15
    assert manifest.open(PLAN, overwrite=False) == {f"0-{n}" for n in range(5)}


def test_records_that_are_folded_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = opened(tmp_path)
    records = [commit(manifest, f"0-{n}") for n in range(3)]
    entries = storage.entries

    def then_fold(folder: str) -> list[storage.Entry]:
        found = entries(folder)
        monkeypatch.undo()
        manifest.fold(records)
        return found

    monkeypatch.setattr(storage, "entries", then_fold)
    assert manifest.totals()["rows"] == 9


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 3}'])
def test_a_damaged_record_is_named(tmp_path: Path, content: str) -> None:
    manifest = opened(tmp_path)
    commit(manifest, "0-1")
    record = tmp_path / "_manifest/units/0-1.json"
    record.write_text(content)
    with pytest.raises(OutputError, match=r"units/0-1.json: damaged record; delete it and run the same command again"):
        manifest.open(PLAN, overwrite=False)


def test_an_empty_record_is_none(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    commit(manifest, "0-1")
    (tmp_path / "_manifest/units/0-1.json").write_text("")  # what a power cut can leave on some file systems
    assert manifest.open(PLAN, overwrite=False) == set()


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    opened(tmp_path)
    (tmp_path / "_manifest/plan.json").write_text("{")
    with pytest.raises(OutputError, match=r"plan\.json: damaged"):
        Manifest(tmp_path).open(PLAN, overwrite=True)


def test_half_files_are_hidden_and_swept_away(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    with storage.write_whole(manifest.part("0-1")) as file:
        file.write(b"half")
        [draft] = [path for path in tmp_path.iterdir() if path.is_file()]
        assert draft.name.startswith(".")
        young = tmp_path / "label=a" / ".part-0-2.parquet.0.tmp"
        old = tmp_path / ".part-0-3.parquet.0.tmp"
        young.parent.mkdir()
        for left in (young, old):
            left.write_text("half")
        os.utime(old, (0, 0))
        assert manifest.open(PLAN, overwrite=False) == set()
        assert (draft.exists(), young.exists(), old.exists()) == (True, True, False)
    assert [part.name for part in manifest.parts()] == ["part-0-1.parquet"]


def test_progress_and_summary(tmp_path: Path) -> None:
    manifest = opened(tmp_path)
    assert manifest.progress() == {}
    manifest.write_progress({"state": "running", "rows_per_second": float("nan")})
    manifest.write_summary({"rows": 3})
    assert manifest.progress().items() >= {"state": "running", "rows_per_second": None}.items()
    assert manifest.progress()["time"] > 1.7e9
    assert json.loads((tmp_path / "_manifest/summary.json").read_text()) == {"rows": 3}
