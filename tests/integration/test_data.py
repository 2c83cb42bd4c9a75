"""Labelled input through Ray Data, and training on what was prepared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import rayclf
from rayclf.config import DataConfig
from rayclf.data import parallel
from rayclf.data.sources import find_sources
from rayclf.data.survey import one_by_one, plan_extract
from rayclf.demo.lessons import data_file
from rayclf.errors import ConfigError, DataError
from rayclf.storage import read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """600 rows in six files of three formats."""
    place = tmp_path / "in"
    place.mkdir()
    for file in range(6):
        rows = [{"text": f"file {file} row {row}", "label": "xyz"[row % 3]} for row in range(100)]
        if file % 2:
            (place / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            lines = "".join(f"{row['text']},{row['label']}\n" for row in rows)
            (place / f"{file}.csv").write_text(f"text,label\n{lines}")
    return place


def test_ray_reads_what_one_process_reads(cluster: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = find_sources(folder)
    extract = plan_extract(sources, DataConfig())
    alone = [(position, table.to_pylist()) for position, table in one_by_one(sources, extract)]
    monkeypatch.setattr(parallel, "_LARGE", 0)
    spread = [(position, table.to_pylist()) for position, table in parallel.spread(sources, extract)]
    assert spread == alone  # in the same order too, by which rows are numbered


def test_prepare_through_ray_gives_the_same_bytes(
    cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = rayclf.prepare(folder, tmp_path / "alone")
    monkeypatch.setattr(parallel, "_LARGE", 0)
    spread = rayclf.prepare(folder, tmp_path / "spread")
    assert spread.record.content_sha256 == alone.record.content_sha256
    assert spread.rows == alone.rows


def test_a_broken_file_in_a_task_is_one_line(
    cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "3.jsonl").write_text('{"text": "a"}\n' * 3)
    (folder / "4.csv").write_text('text,label\n"open,x\n')
    monkeypatch.setattr(parallel, "_LARGE", 0)
    with pytest.raises(DataError, match=r"4\.csv: line 2: broken CSV") as error:
        rayclf.prepare(folder, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_training_on_prepared_data(
    cluster: None,
    backbone: Callable[[str], Path],
    tmp_path: Path,
    few_messages: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # workers have another working directory
    dataset = rayclf.prepare(few_messages, tmp_path / "prepared", overrides={"data.validation": 0.2})
    overrides = {"train.epochs": 1, "train.class_weights": "balanced", "train.precision": "fp32"}
    bert = str(backbone("bert"))
    run = rayclf.train("prepared", "run", backbone=bert, overrides=overrides)
    assert run.status["rows"] == dataset.rows
    assert read_json(run.folder / "dataset.json")["content_sha256"] == dataset.record.content_sha256
    assert not (run.folder / "data").exists()  # the rows are where they were prepared
    ids = pq.read_table(run.folder / "predictions.parquet")["id"].to_pylist()
    assert sorted(ids) == sorted(dataset.read("test")["id"].to_pylist())
    with pytest.raises(ConfigError, match="has its parts already"):
        rayclf.train(tmp_path / "prepared", tmp_path / "other", test=few_messages, backbone=bert)


def test_a_run_records_its_data(encoder_run: rayclf.Run) -> None:
    dataset = rayclf.Dataset.open(encoder_run.folder)
    questions = data_file("questions.csv")
    assert [Path(source.path).name for source in dataset.record.sources] == ["questions.csv"]
    assert dataset.record.sources[0].size == Path(questions).stat().st_size
    assert dataset.record.read == dataset.record.kept == sum(dataset.rows.values()) == 480
    assert encoder_run.status["rows"] == dataset.rows
    assert (encoder_run.status["read"], encoder_run.status["quarantined"]) == (480, 0)
    assert (encoder_run.folder / "quarantine.jsonl").read_text() == ""
    assert np.sum(dataset.counts("train").positive) == dataset.rows["train"]
