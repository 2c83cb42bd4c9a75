"""Runs by their folders alone: what they tell while training goes on, after it, and after a death."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_run import evaluation, make_run
from hypothesis import given
from hypothesis import strategies as st

from rayclf.errors import OutputError
from rayclf.training.comparison import compare
from rayclf.training.heartbeat import HEARTBEAT, SILENT, beating, last_beat
from rayclf.training.run import Run
from rayclf.training.runs import (
    check_idle,
    delete,
    find_runs,
    follow,
    open_run,
    state_of,
    summary,
)
from rayclf.training.tail import Tail


@pytest.fixture
def done(tmp_path: Path) -> Run:
    run = make_run(tmp_path / "runs" / "done", ("a", "b", "c"))
    run.write_status(state="done", epochs=3, step=300, epoch=3, pid=1, host="node-1")
    return run


@pytest.fixture
def busy(tmp_path: Path) -> Run:
    """A run that has made 4 of 10 steps, one a second."""
    folder = tmp_path / "runs" / "deep" / "busy"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("train: {batch_size: 10, metric: f1_macro, learning_rate: 1.0e-3}\n")
    run = Run(folder)
    run.write_status(
        state="running", started="2026-01-02T03:04:05+00:00", epochs=2, step=4, epoch=1,
        rows={"train": 45, "validation": 5}, pid=1, host="node-1", data="x.csv",
    )  # fmt: skip
    write(run, *(step(n) for n in range(1, 5)), {"time": 4.5, **evaluation(4, "validation", {"f1_macro": 0.5})})
    return run


def step(number: int) -> dict[str, Any]:
    return {"time": float(number), "kind": "step", "step": number, "epoch": 1, "loss": 1 / number, "rows": 10,
            "rows_per_second": 10.0}  # fmt: skip


def write(run: Run, *lines: dict[str, Any]) -> None:
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def test_runs_are_found_at_any_depth_but_not_inside_runs(done: Run, busy: Run, tmp_path: Path) -> None:
    make_run(done.folder / "checkpoints" / "inner", ("a", "b"))
    make_run(tmp_path / "runs" / ".hidden", ("a", "b"))
    assert find_runs(tmp_path) == [busy.folder, done.folder]
    assert find_runs(done.folder) == [done.folder]
    with pytest.raises(OutputError, match="no such folder"):
        find_runs(tmp_path / "nowhere")


def test_a_finished_run(done: Run) -> None:
    told = summary(done)
    assert (told.state, told.step, told.steps, told.seconds) == ("done", 300, 300, 424.0)
    assert told.seconds_left is None
    assert told.metrics is not None
    assert told.metrics["test"]["own.match of both"] == pytest.approx(1.4 / 5)
    assert "per_label" not in told.metrics["test"]
    assert not any(name.startswith("interval") for name in told.metrics["test"])


def test_a_run_at_work(busy: Run) -> None:
    told = summary(busy)
    assert (told.state, told.step, told.steps) == ("running", 4, 10)
    assert told.seconds_left == pytest.approx(6.0)
    assert told.metrics == {"validation": {"f1_macro": 0.5}}


def test_a_folder_that_cannot_be_read_does_not_hide_the_others(busy: Run) -> None:
    (busy.folder / "status.json").write_text("{")
    told = summary(busy)
    assert told.state == "unreadable"
    assert told.error


def test_a_dead_process_is_not_running_for_ever(busy: Run) -> None:
    now = time.time()
    assert state_of(busy, now)[0] == "running"
    state, error = state_of(busy, now + SILENT + 2)
    assert state == "stopped"
    assert error is not None
    assert "process 1 on node-1" in error
    with beating(busy.folder, every=0.01):
        first = last_beat(busy.folder)
        while last_beat(busy.folder) == first:
            time.sleep(0.01)
    (busy.folder / HEARTBEAT).write_text(json.dumps({"time": now + SILENT}))
    assert state_of(busy, now + SILENT + 2)[0] == "running"  # silent, as in a long evaluation, and alive
    assert state_of(busy, now + 2 * SILENT + 1)[0] == "stopped"
    assert summary(busy, now + 2 * SILENT + 1).seconds_left is None


def test_a_heartbeat_survives_a_disk_that_refuses(tmp_path: Path) -> None:
    with beating(tmp_path / "gone" / "away", every=0.01):
        time.sleep(0.03)
    assert last_beat(tmp_path) is None


def test_follow_tells_what_is_written_until_the_end(busy: Run) -> None:
    def work() -> None:
        with (busy.folder / "metrics.jsonl").open("a") as file:
            for number in (5, 6):
                text = json.dumps(step(number)) + "\n"
                for piece in (text[:9], text[9:]):  # a line is never told in halves
                    file.write(piece)
                    file.flush()
                    time.sleep(0.02)
        busy.write_status(state="done")

    worker = threading.Thread(target=work)
    told = []
    for event in follow(busy, past=1, every=0.005):
        if not told:
            worker.start()
        told.append(event)
    worker.join()
    assert told[0]["kind"] == "evaluation"
    assert [event.get("step") for event in told[1:]] == [5, 6, None]
    assert told[-1] == {"kind": "ended", "state": "done", "error": None}


def test_follow_ends_where_nothing_is_to_come(busy: Run, done: Run) -> None:
    assert len(list(follow(done, past=0))) == 1
    status = json.loads((busy.folder / "status.json").read_text())
    (busy.folder / "status.json").write_text(json.dumps(status | {"updated": "2026-01-02T03:04:05+00:00"}))
    assert [event["kind"] for event in follow(busy, past=2)] == ["step", "evaluation", "ended"]


def test_follow_says_that_a_run_was_deleted(busy: Run) -> None:
    events = follow(busy, past=1, every=0)
    next(events)
    busy.write_status(state="stopped")
    delete(busy.folder)
    with pytest.raises(OutputError, match="was deleted"):
        list(events)


@given(pieces=st.lists(st.text(max_size=5), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_a_tail_tells_each_line_once_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], cuts: list[int]
) -> None:
    lines = [{"text": piece} for piece in pieces]
    whole = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    file = tmp_path_factory.mktemp("tail") / "lines.jsonl"
    tail, told, at = Tail(file), [], 0
    for cut in [*sorted(min(cut, len(whole)) for cut in cuts), len(whole)]:
        with file.open("ab") as out:
            out.write(whole[at:cut])
        at = cut
        told += tail.read()
    assert told == lines


def test_a_tail_of_a_file_that_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    tail = Tail(file)
    assert tail.read() == []
    file.write_text('{"a": 1}\n{"a": 2}\n')
    assert len(tail.read()) == 2
    file.write_text('{"a": 3}\n')
    assert tail.read() == [{"a": 3}]


def test_compare_tells_what_differs(done: Run, busy: Run) -> None:
    found = compare([done, busy])
    assert found.settings["train.learning_rate"] == (5e-5, 1e-3)
    assert found.settings["rows.train"] == (3200, 45)
    assert "train.metric" not in found.settings  # the same in both
    assert found.settings["resources.workers"] == (2, None)
    assert found.metrics["validation f1_macro"][1] == 0.5
    assert found.metrics["test f1_macro"][1] is None
    assert compare([done, done]).settings == {}


def test_delete_refuses_what_works_what_is_a_link_and_what_is_no_run(done: Run, busy: Run, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="process 1 on node-1"):
        delete(busy.folder)
    link = tmp_path / "link"
    link.symlink_to(done.folder)
    with pytest.raises(OutputError, match="is a link"):
        delete(link)
    with pytest.raises(OutputError, match="not a run"):
        delete(tmp_path)
    check_idle(open_run(done.folder))
    delete(done.folder)
    assert find_runs(tmp_path) == [busy.folder]
    assert list((tmp_path / "runs").iterdir()) == [tmp_path / "runs" / "deep"]
