"""Errors out of Ray's wrappings, and stderr that stays where it belongs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayclf.cluster import connect, native_stderr_to, root_cause
from rayclf.errors import ArtifactError, RayclfError, ResourceError


class TrainingFailed(Exception):
    """As Ray Train raises it: the workers' errors beside it, as text."""

    def __init__(self, told: str) -> None:
        super().__init__("Training failed")
        self.worker_failures = {0: RuntimeError(told)}


def test_a_workers_own_error_comes_through() -> None:
    found = root_cause(
        TrainingFailed("ray::Worker\n  File x\nrayclf.errors.ArtifactError: a/b: damaged; copy it"), "training"
    )
    assert isinstance(found, ArtifactError)
    assert str(found) == "a/b: damaged; copy it"


def test_anything_else_is_one_line() -> None:
    found = root_cause(ValueError("Traceback\n  File x\nValueError: what\n"), "scoring")
    assert type(found) is RayclfError
    assert str(found) == "scoring failed: ValueError: what"
    assert str(root_cause(ValueError(), "scoring")) == "scoring failed: ValueError"


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise RuntimeError("The node died\nwith a long story")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    with pytest.raises(ResourceError, match=r"^Ray did not start .* \(The node died with a long story\)$"):
        connect()


def test_native_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with native_stderr_to(tmp_path / "log"):
        os.write(2, b"a note\n")
    os.write(2, b"an error\n")
    assert (tmp_path / "log").read_text() == "a note\n"
    assert capfd.readouterr().err == "an error\n"
