from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rayclf.config_file import load_config
from rayclf.errors import ConfigError, OutputError, UserError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.storage import write_json
from rayclf.training.driver import train
from rayclf.training.heartbeat import HEARTBEAT, beating, is_heard
from rayclf.training.place import check_place
from rayclf.training.resume import check_same, go_on, interrupted
from rayclf.training.run import Run, create_run

SPACE = LabelSpace(("a", "b"), ProblemType.MULTICLASS)


def begun(folder: Path, settings: Mapping[str, Any] | None = None) -> Run:
    config = load_config(None, {"train.epochs": 3, "train.learning_rate": 1e-4, **(settings or {})})
    return create_run(folder, config, SPACE, {"data": "a.csv", "test": None})


def test_where_nothing_is_there_is_nothing_to_resume(tmp_path: Path) -> None:
    assert interrupted(tmp_path / "x") is None
    (tmp_path / "x").mkdir()
    assert interrupted(tmp_path / "x") is None


def test_a_run_whose_process_is_gone_can_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    gone = subprocess.Popen(["true"])
    gone.wait()
    run.write_status(pid=gone.pid)
    assert interrupted(tmp_path / "x") == run


def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    run.write_status(pid=os.getppid())
    with pytest.raises(OutputError, match=rf"process {os.getppid()} on \S+ is training there"):
        interrupted(tmp_path / "x")
    with pytest.raises(OutputError, match="is training there"):
        train(tmp_path / "a.csv", run.folder, overrides={"output.overwrite": True})
    assert run.folder.is_dir()
    run.write_status(host="another")  # whose processes cannot be seen from here, and this one gave no sign of life
    assert interrupted(tmp_path / "x") == run


def test_a_run_that_is_being_trained_on_another_host_is_left_alone(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    run.write_status(host="another")
    with beating(run.folder, every=0.1), pytest.raises(OutputError, match=r"on another is training there"):
        interrupted(tmp_path / "x")


def test_a_run_whose_number_another_process_has_got_can_go_on(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    run.write_status(pid=os.getppid())
    write_json(run.folder / HEARTBEAT, {"time": time.time() - 100})
    assert interrupted(tmp_path / "x") == run
    write_json(run.folder / HEARTBEAT, {"time": time.time()})
    assert not is_heard(run.folder, seconds=0.2)


@pytest.mark.parametrize(
    ("name", "end", "message"),
    [
        ("status.json", b"data", r"status\.json: damaged, not JSON \(.*\); put it back from a copy"),
        ("config.yaml", b"train:", r"config\.yaml: damaged, no section 'train'; put it back"),
        ("metrics.jsonl", b"no such", r"metrics\.jsonl: line 2 is damaged, not JSON \(.*\); delete it"),
    ],
)
def test_a_damaged_record_is_told_by_its_file(tmp_path: Path, name: str, end: bytes, message: str) -> None:
    run = begun(tmp_path / "x")
    run.write_status(state="stopped")
    (run.folder / "metrics.jsonl").write_text('{"kind": "step", "step": 1}\n{"kind": \n')
    file = run.folder / name
    file.write_bytes(file.read_bytes().partition(end)[0])
    with pytest.raises(UserError, match=message):
        train("a.csv", run.folder, resume=True)


def test_a_run_with_a_damaged_status_can_be_overwritten(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    (run.folder / "status.json").write_text("{")
    assert check_place(run.folder, overwrite=True) == run.folder


def test_what_is_not_asked_for_stays(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    asked = load_config(None, {"resources.workers": 2, "train.micro_batch_tokens": 64, "output.texts": True})
    check_same(run, "a.csv", None, asked)
    config = go_on(run, asked)
    assert (config.train.epochs, config.train.learning_rate) == (3, 1e-4)
    assert (config.resources.workers, config.train.micro_batch_tokens, config.output.texts) == (2, 64, True)


def test_the_same_settings_may_be_given_again(tmp_path: Path) -> None:
    check_same(begun(tmp_path / "x"), "a.csv", None, load_config(None, {"train.epochs": 3}))


@pytest.mark.parametrize(
    ("field", "value"), [("train.epochs", 4), ("model.lora.r", 3), ("train.seed", 5), ("data.label", "y")]
)
def test_other_settings_are_refused_by_name(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"--resume: {field} is .* begun with"):
        check_same(begun(tmp_path / "x"), "a.csv", None, load_config(None, {field: value}))


def test_the_same_data_may_be_given_by_another_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begun(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for path in ("./a.csv", tmp_path / "a.csv", "link/a.csv"):
        check_same(run, path, None, load_config(None))
    for path in ("x/a.csv", "s3://a.csv"):
        with pytest.raises(ConfigError, match="begun with data"):
            check_same(run, path, None, load_config(None))


def test_other_data_is_refused(tmp_path: Path) -> None:
    run = begun(tmp_path / "x")
    with pytest.raises(ConfigError, match=r"begun with data a\.csv, not b\.csv"):
        check_same(run, "b.csv", None, load_config(None))
    with pytest.raises(ConfigError, match="test None"):
        check_same(run, "a.csv", "t.csv", load_config(None))
