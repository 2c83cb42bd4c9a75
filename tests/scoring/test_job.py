"""What a job is made of, what of it counts on a resume, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import TEXTS, Made

from rayclf.data.texts import TextSource
from rayclf.errors import ConfigError, DataError
from rayclf.scoring.job import make_job
from rayclf.scoring.units import InputFile, look_at

Make = Callable[..., Made]


@pytest.fixture
def files(tmp_path: Path) -> list[InputFile]:
    table = pa.table({"text": TEXTS, "n": range(len(TEXTS)), "id": [f"r{i}" for i in range(len(TEXTS))]})
    pq.write_table(table, tmp_path / "in.parquet")
    return [look_at(str(tmp_path / "in.parquet"), "in.parquet")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probabilities": "dict"}, "--probabilities dict: must be one of list, columns, none"),
        ({"too_long": "drop"}, "--too-long drop: must be one of cut, error"),
        ({"top_k": 0}, "--top-k 0: must be at least 1"),
        ({"threshold": 1.5}, "--threshold 1.5: must be a probability"),
    ],
)
def test_a_value_no_flag_takes(make: Make, tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_job(tmp_path, [], "out", options)


def test_every_setting_counts_but_threads(make: Make, tmp_path: Path, files: list[InputFile]) -> None:
    artifact = make("bert", reads=TextSource(text="text")).save(tmp_path / "a" / "artifact")
    job = make_job(artifact, files, "out", {})
    assert [field.name for field in job.columns.kept] == ["text", "n"]
    assert replace(job, threads=7).settings() == job.settings()
    changes: list[Any] = [
        {"columns": ["n"]}, {"probabilities": "none"}, {"top_k": 2}, {"threshold": 0.1}, {"partition_by_label": True},
        {"too_long": "error"}, {"precision": "bf16"}, {"runtime": "torch"},
    ]  # fmt: skip
    for change in changes:
        other = make_job(artifact, files, "out", change).settings()
        (name,) = [key for key in other if other[key] != job.settings()[key]]
        assert name == next(iter(change))
    with pytest.raises(DataError, match="no column 'm'; --columns must name some of: text, n, id"):
        make_job(artifact, files, "out", {"columns": ["m"]})


def test_artifacts_of_one_pass_go_together(make: Make, tmp_path: Path, files: list[InputFile]) -> None:
    first = make("bert", reads=TextSource(text="text"))
    one, two = first.save(tmp_path / "a" / "artifact"), first.save(tmp_path / "b" / "artifact")
    job = make_job(one, files, "out", {"also": [two]})
    assert [model.prefix for model in job.models] == ["", "b_"]
    assert job.settings()["also"] == {"b_": job.models[1].fingerprint}
    same = first.save(tmp_path / "c" / "b")
    with pytest.raises(ConfigError, match="two artifacts are called 'b'; rename the folder of one"):
        make_job(one, files, "out", {"also": [two, same]})
    pairs = make("bert", reads=TextSource(text="p", text_pair="h")).save(tmp_path / "pairs")
    with pytest.raises(ConfigError, match="reads pair, the first artifact text; score with it apart"):
        make_job(one, files, "out", {"also": [pairs]})
