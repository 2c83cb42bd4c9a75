"""The list of checkpoints: what it names stays, and it outlives a disk that fills while it is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from rayclf.storage import read_json, write_json
from rayclf.training import checkpoint_list
from rayclf.training.checkpoint_list import CopyList, mend_list, prune_checkpoints
from rayclf.training.run import Run

NAMES = [f"checkpoint_{number}" for number in range(3)]
LIST = "checkpoint_manager_snapshot.json"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with the folders of checkpoints; one that is there is whole (see test_checkpoints.py)."""
    monkeypatch.setattr(checkpoint_list, "is_whole", Path.is_dir)
    for name in NAMES:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    return Run(tmp_path)


def write_list(run: Run, best: str, latest: str) -> None:
    """As Ray Train does, and what it calls afterwards."""
    records = {name: {"checkpoint_dir_name": name} for name in (best, latest)}
    snapshot = {
        "checkpoint_results": list(records.values()),
        "checkpoint_report_indices": [NAMES.index(name) for name in records],
        "latest_checkpoint_result": records[latest],
        "ray_version": "2",
    }
    write_json(run.folder / "checkpoints" / LIST, snapshot)
    CopyList().after_report(None, [], SimpleNamespace(path=str(run.folder / "checkpoints" / latest)))


def kept(run: Run) -> list[str]:
    prune_checkpoints(run)
    return sorted(path.name for path in (run.folder / "checkpoints").iterdir() if path.is_dir())


def test_where_there_are_no_checkpoints_there_is_nothing_to_do(tmp_path: Path) -> None:
    mend_list(Run(tmp_path))
    prune_checkpoints(Run(tmp_path))
    assert not list(tmp_path.iterdir())


def test_only_checkpoints_that_are_listed_stay(run: Run) -> None:
    write_list(run, NAMES[0], NAMES[2])
    before = read_json(run.folder / "checkpoints" / LIST)
    mend_list(run)
    assert read_json(run.folder / "checkpoints" / LIST) == before
    assert kept(run) == [NAMES[0], NAMES[2]]


def test_without_a_list_none_is_whole(run: Run) -> None:
    mend_list(run)
    assert kept(run) == []


@pytest.mark.parametrize("written", [b"", b'{"checkpoint_results": [{"checkpo', b'{"a": "\xc3'])
def test_a_list_written_in_part_is_put_back(run: Run, written: bytes) -> None:
    write_list(run, NAMES[0], NAMES[1])
    before = read_json(run.folder / "checkpoints" / LIST)
    (run.folder / "checkpoints" / LIST).write_bytes(written)
    assert kept(run) == [NAMES[0], NAMES[1]]
    mend_list(run)
    assert read_json(run.folder / "checkpoints" / LIST) == before


def test_a_first_list_written_in_part_is_no_list(run: Run) -> None:
    (run.folder / "checkpoints" / LIST).write_bytes(b"")
    assert kept(run) == []
    mend_list(run)
    assert not (run.folder / "checkpoints" / LIST).exists()


@pytest.mark.parametrize(("gone", "left"), [(NAMES[2], NAMES[0]), (NAMES[0], NAMES[2])])
def test_a_damaged_checkpoint_is_passed_over(run: Run, gone: str, left: str) -> None:
    write_list(run, NAMES[0], NAMES[2])
    (run.folder / "checkpoints" / gone).rmdir()
    assert mend_list(run) == [gone]
    record = {"checkpoint_dir_name": left}
    assert read_json(run.folder / "checkpoints" / LIST) == {
        "checkpoint_results": [record],
        "checkpoint_report_indices": [NAMES.index(left)],
        "latest_checkpoint_result": record,
        "ray_version": "2",
    }
    assert kept(run) == [left]


def test_where_all_checkpoints_are_damaged_training_begins_anew(run: Run) -> None:
    write_list(run, NAMES[0], NAMES[2])
    for name in NAMES:
        (run.folder / "checkpoints" / name).rmdir()
    assert mend_list(run) == [NAMES[0], NAMES[2]]
    assert not list((run.folder / "checkpoints").iterdir())


def test_a_report_without_a_checkpoint_changes_no_list(run: Run) -> None:
    CopyList().after_report(None, [{}], None)
    assert kept(run) == []
