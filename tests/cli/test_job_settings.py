"""What job scripts share: settings that are right or one line that says how to mend them, and how a job ends."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml

import rayclf
from rayclf.cli.job import STOPPED, open_job, read_settings
from rayclf.config_file import load_config
from rayclf.errors import ConfigError, DataError
from rayclf.serving.deployments import deploy
from rayclf.serving.record import Options

JOBS = Path(__file__).parents[2] / "jobs"
FACADES = {
    "prepare": (rayclf.prepare, {}),
    "train": (rayclf.train, {}),
    "tune": (rayclf.tune, {}),
    "evaluate": (rayclf.evaluate, {"output": str}),
    "score": (rayclf.score, {}),
    "deploy": (deploy, get_type_hints(Options)),
}


def read(tmp_path: Path, text: str, facade: Any = rayclf.train) -> dict[str, Any]:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    return read_settings(file, facade, {})


@pytest.mark.parametrize("name", FACADES)
def test_each_example_fits_its_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    facade, more = FACADES[name]
    settings = read_settings(JOBS / f"{name}.yaml", facade, more)
    given = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
    assert {"config" if key == "overrides" else key for key in settings} == set(given)
    if name in ("score", "deploy"):
        assert settings["replicas"] == tuple(given["replicas"])
    if name == "train":
        assert settings["overrides"]["train.checkpoint_steps"] == 200
        assert settings["overrides"]["resources.workers"] == [1, 4]
        assert load_config(overrides=settings["overrides"]).model_fields_set == {"model", "train", "resources"}
    if name == "tune":
        assert settings["search"] == given["search"]


@pytest.mark.parametrize("name", FACADES)
def test_each_script_is_short_and_says_how_to_submit_it(name: str) -> None:
    text = (JOBS / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 40
    assert f"python jobs/{name}.py jobs/{name}.yaml" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: a\noutputs: b\n", "unknown key 'outputs'; did you mean 'output'"),
        ("data: a\n", "'output' is missing"),
        ("data: a\noutput:\n", "'output' is missing"),
        ("data: 5\noutput: b\n", r"data: .* \(it is 5\)"),
        ("data: a\noutput: b\nresume: perhaps\n", "resume: .*boolean"),
        ("data: a\noutput: b\nconfig: {train: {epoch: 3}}\n", "config: unknown key 'train.epoch'; did you mean"),
        ("data: a\noutput: b\nconfig: {train: 5}\n", "config: train: "),
        ("data: a\ndata: b\n", "'data' stands twice"),
        ("data: [", "not valid YAML"),
        ("just words", "must hold lines"),
        ("", "must hold lines"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "job.yaml"))


def test_sections_and_overrides_together(tmp_path: Path) -> None:
    text = "{data: a, output: b, config: {train: {epochs: 3, seed: 5}}, overrides: {train.epochs: 4}}"
    assert read(tmp_path, text)["overrides"] == {"train.epochs": 4, "train.seed": 5}


def test_an_output_in_the_working_directory_of_a_job_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "{data: a.csv, output: runs/x}"
    assert read(tmp_path, text)["output"] == "runs/x"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match="would be lost"):
        read(tmp_path, text)
    assert read(tmp_path, "{data: a.csv, output: /mnt/x}")
    assert read(tmp_path, "{data: a.csv, output: 's3://b/x'}")


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("{data: a.csv, output: b}")
    monkeypatch.setattr(sys, "argv", ["train.py", str(file)])


@pytest.mark.usefixtures("begin")
def test_how_a_job_ends(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end(act: Any) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as ended, open_job("", rayclf.train) as job:
            assert job.settings == {"data": "a.csv", "output": "b"}
            act()
        return ended.value.code, capsys.readouterr().err

    def fail(error: Exception) -> None:
        raise error

    try:
        assert end(lambda: fail(DataError("a.csv: empty"))) == (2, "error: a.csv: empty\n")
        assert end(lambda: fail(rayclf.RayclfError("it broke"))) == (1, "error: it broke\n")
        assert end(lambda: fail(PermissionError(13, "Permission denied", "b"))) == (2, "error: b: Permission denied\n")
        assert end(lambda: os.kill(os.getpid(), signal.SIGTERM)) == (STOPPED, "stopped\n")
        with pytest.raises(ZeroDivisionError), open_job("", rayclf.train):
            raise ZeroDivisionError  # a mistake of ours is not hidden
    finally:
        signal.signal(signal.SIGTERM, before)
