"""The manifest: a job is begun, gone on with, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayclf.errors import OutputError, UserError
from rayclf.scoring.manifest import Manifest

PLAN = {"format": 1, "artifact": "abc", "text": "body", "files": [{"path": "x", "size": 1}]}


def test_a_job_goes_on_with_what_is_done(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "out")
    assert manifest.open(PLAN, overwrite=False) == set()
    manifest.commit("0-1", {"rows": 3, "errors": 1, "tokens": 9})
    manifest.commit("0-2", {"rows": 2, "errors": 0, "tokens": 4})
    assert Manifest(tmp_path / "out").open(PLAN, overwrite=False) == {"0-1", "0-2"}
    assert manifest.totals() == {"rows": 5, "errors": 1, "tokens": 13}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"artifact": "xyz"}, "artifact is 'xyz', was 'abc'"),
        ({"files": []}, "the input files changed"),
        ({"more": 1}, "more is 1, was None"),
    ],
)
def test_another_job_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    manifest = Manifest(tmp_path)
    manifest.open(PLAN, overwrite=False)
    manifest.commit("0-1", {"rows": 3, "errors": 1, "tokens": 9})
    with pytest.raises(OutputError, match=words):
        manifest.open({**PLAN, **change}, overwrite=False)
    assert manifest.open({**PLAN, **change}, overwrite=True) == set()


def test_other_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not the output of rayclf score"):
            Manifest(tmp_path).open(PLAN, overwrite)
    with pytest.raises(OutputError, match="is a file"):
        Manifest(tmp_path / "thesis.txt").open(PLAN, overwrite=False)
    with pytest.raises(UserError, match="must be a local path"):
        Manifest("s3://bucket/out")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
