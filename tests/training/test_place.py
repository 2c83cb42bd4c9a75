"""The place of a new run: never over something else, and what it replaces is not lost before it has begun to learn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rayclf.config import Config
from rayclf.errors import OutputError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.storage import write_json
from rayclf.training.place import check_place, discard, mend, put_back, set_aside
from rayclf.training.run import RUN, Run, create_run
from rayclf.training.search.record import SEARCH

SPACE = LabelSpace(("a", "b"), ProblemType.MULTICLASS)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def old_run(folder: Path) -> Run:
    run = create_run(folder, Config(), SPACE, {"data": "old.csv"})
    (run.artifact / "backbone").mkdir(parents=True)
    (run.artifact / "backbone" / "model.safetensors").write_bytes(b"weights")
    return run


def test_a_run_set_aside_is_put_back_as_it_was(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    before = tree(run.folder)
    set_aside(run.folder)
    new = create_run(run.folder, Config(), SPACE, {"data": "new.csv"})
    (new.folder / "checkpoints" / "checkpoint_0").mkdir(parents=True)
    (new.folder / "link").symlink_to(tmp_path)
    assert put_back(run.folder, print)
    assert tree(run.folder) == before
    assert not put_back(run.folder, print)  # there is none any more
    assert tree(run.folder) == before


def test_a_run_set_aside_outlives_a_kill_before_the_first_step(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    before = tree(run.folder)
    for number in range(2):  # each of them killed
        set_aside(run.folder)
        create_run(run.folder, Config(), SPACE, {"data": f"{number}.csv"})
    assert put_back(run.folder, print)
    assert tree(run.folder) == before


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Have the ``number``-th change of the file system that set_aside and its like make raise KeyboardInterrupt."""
    done = count()

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def killed(*arguments: Any, **options: Any) -> Any:
            if next(done) == number:
                raise KeyboardInterrupt
            return change(*arguments, **options)

        return killed

    for name in ("rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))


def test_a_kill_at_any_point_of_a_move_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(name: str, replace: bool) -> tuple[Path, dict[str, bytes]]:
        run = old_run(tmp_path / name)
        before = tree(run.folder)
        if replace:
            set_aside(run.folder)
            new = create_run(run.folder, Config(), SPACE, {"data": "new.csv"})
            (new.folder / "checkpoints" / "checkpoint_0").mkdir(parents=True)
        return run.folder, before

    for action in (set_aside, lambda folder: put_back(folder, print)):
        cut = True
        for number in range(100):
            folder, before = prepare(f"{action.__name__}{number}", replace=action is not set_aside)
            kill_at(monkeypatch, number)
            try:
                action(folder)
                cut = False
            except KeyboardInterrupt:
                pass
            finally:
                monkeypatch.undo()
            if not cut:
                break
            again = check_place(folder, overwrite=True)
            if RUN.is_in(folder / ".replaced"):  # the new run is there yet
                assert put_back(again, print)
            assert tree(folder) == before, number
        assert number > 2
        assert not cut


def test_what_was_set_aside_is_put_back_where_no_new_one_was_begun(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    before = tree(run.folder)
    set_aside(run.folder)
    mend(run.folder)
    assert tree(run.folder) == before


def test_a_search_leaves_alone_what_a_run_has_set_aside(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    set_aside(run.folder)
    create_run(run.folder, Config(), SPACE, {"data": "new.csv"})
    before = tree(run.folder)
    with pytest.raises(OutputError, match="exists and is not a search"):
        check_place(run.folder, overwrite=True, kind=SEARCH)
    assert tree(run.folder) == before


def test_what_a_kill_left_of_a_discarded_run_is_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = old_run(tmp_path / "run")
    set_aside(run.folder)
    create_run(run.folder, Config(), SPACE, {"data": "new.csv"})
    new = tree(run.folder)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    discard(run.folder)
    monkeypatch.undo()
    mend(run.folder)
    assert {name for name in tree(run.folder) if not name.startswith(".")} == {
        name for name in new if not name.startswith(".")
    }
    assert not put_back(run.folder, print)
    discard(run.folder)
    assert not (run.folder / ".deleted").exists()


def test_a_search_is_set_aside_and_put_back_like_a_run(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.yaml").write_text("{}")
    write_json(tmp_path / "tune.json", {"state": "done"})
    before, told = tree(tmp_path), list[dict[str, object]]()
    set_aside(tmp_path, SEARCH)
    assert set(tree(tmp_path)) == {f".replaced/{name}" for name in before}
    (tmp_path / "trials" / "0").mkdir(parents=True)
    assert put_back(tmp_path, told.append, SEARCH)
    assert tree(tmp_path) == before
    assert told == [{"kind": "put back"}]
    assert not put_back(tmp_path, told.append, SEARCH)
    assert len(told) == 1


def test_a_search_that_is_at_work_is_not_overwritten(tmp_path: Path) -> None:
    write_json(tmp_path / "tune.json", {"state": "running", "host": os.uname().nodename, "pid": os.getppid()})
    with pytest.raises(OutputError, match=rf"process {os.getppid()} on .* is training there; stop it first"):
        check_place(tmp_path, True, kind=SEARCH)
    write_json(tmp_path / "tune.json", {"state": "done", "host": os.uname().nodename, "pid": os.getppid()})
    assert check_place(tmp_path, True, kind=SEARCH) == tmp_path
    with pytest.raises(OutputError, match="holds a search already; choose another --output, or pass --overwrite"):
        check_place(tmp_path, False, kind=SEARCH)


def test_what_was_set_aside_goes_at_the_first_step(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    set_aside(run.folder)
    assert tree(run.folder)
    for _ in range(2):
        discard(run.folder)
        assert not list(run.folder.iterdir())


def test_a_place_that_may_not_be_written_to_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system, since root, who may write anywhere, runs tests too."""
    monkeypatch.setattr(os, "access", lambda place, mode: not (place == tmp_path and mode & os.W_OK))
    with pytest.raises(OutputError, match="new/run: .* may not be written to"):
        check_place(tmp_path / "new" / "run", overwrite=False)


def test_places(tmp_path: Path) -> None:
    assert check_place(tmp_path / "new", overwrite=False) == tmp_path / "new"
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", overwrite=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        check_place(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError, match=r"run: \S+file is a file"):
        check_place(tmp_path / "file" / "below" / "run", overwrite=True)
    with pytest.raises(OutputError, match="exists and is not a run"):
        check_place(tmp_path, overwrite=True)
    old = create_run(tmp_path / "run", Config(), SPACE, {})
    (old.folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(OutputError, match="--overwrite"):
        check_place(old.folder, overwrite=False)
    assert check_place(old.folder, overwrite=True) == old.folder


def test_what_is_to_be_read_is_not_overwritten(tmp_path: Path) -> None:
    old = create_run(tmp_path / "run", Config(), SPACE, {})
    (tmp_path / "link").symlink_to(old.folder)
    for path in (old.folder, old.folder / "mine.csv", tmp_path / "run" / "*.csv", tmp_path / "link" / "mine.csv"):
        with pytest.raises(OutputError, match="which --overwrite would delete"):
            check_place(old.folder, True, (tmp_path / "x.csv", path))
    for place in ("run2/mine.csv", "x.csv", "other/run/mine.csv"):
        assert (
            check_place(old.folder, True, (tmp_path / place, None, "s3://bucket/run/x.csv?region=eu-west-1"))
            == old.folder
        )
