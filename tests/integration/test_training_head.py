"""Training of the head alone through Ray Train: the backbone stays what it was, and classifiers share it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import rayclf
from rayclf.demo.lessons import data_file
from rayclf.model.backbone_files import weight_hashes
from rayclf.model.info import read_info
from rayclf.model.shared import HeadRuntime, load_together

TEXTS = ["Which organelle makes ATP?", "What is the verdict of the court?"]


def test_a_frozen_backbone(cluster: None, backbone: Callable[[str], Path], tmp_path: Path) -> None:
    run = rayclf.train(
        data_file("questions.csv"),
        tmp_path / "probe",
        backbone=str(backbone("bert")),
        overrides={"model.method": "head", "train.precision": "fp32", "train.learning_rate": 0.02, "train.epochs": 4},
    )
    info = read_info(run.artifact)
    assert (info.tuning, run.config.model.method) == ("head", "head")
    assert run.config.train.head_rows == 0
    assert info.backbone.sha256 == weight_hashes(backbone("bert"))
    assert [f.name for f in run.artifact.rglob("*.safetensors")] == ["head.safetensors"]
    losses = [event["loss"] for event in run.events if event["kind"] == "step"]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert "head" in (run.folder / "report.html").read_text()
    pair = load_together([run.artifact, run.artifact])
    assert all(isinstance(classifier.runtime, HeadRuntime) for classifier in pair)
    expected = rayclf.Classifier.load(run.artifact).probabilities(TEXTS)
    for classifier in pair:
        np.testing.assert_allclose(classifier.probabilities(TEXTS), expected, atol=1e-5)


@pytest.fixture(scope="module")
def rare(cluster: None, backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> rayclf.Run:
    """Two labels, of which one is rare, trained in bfloat16."""
    place = tmp_path_factory.mktemp("rare")
    rows = [{"prompt": f"text {n}", "completion": {"half": n % 2, "rare": int(n % 10 == 1)}} for n in range(120)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"train.epochs": 1, "train.precision": "bf16", "data.test": 0.1, "data.validation": 0.25}
    return rayclf.train(place / "rows.jsonl", place / "run", backbone=str(backbone("bert")), overrides=settings)


def test_rare_labels_begin_rare(rare: rayclf.Run) -> None:
    before = next(event for event in rare.events if event["kind"] == "evaluation")
    assert before["step"] == 0
    assert before["log_loss"] < 0.6  # the mean entropy of both is 0.51, and 0.69 what a head without a prior has


def test_the_final_test_computes_as_a_loaded_classifier_does(rare: rayclf.Run) -> None:
    """And not in the precision of training: thresholds would be those of other probabilities."""
    found = pq.read_table(rare.folder / "predictions.parquet").sort_by("id")
    texts = pq.read_table(rare.folder / "data" / "test").sort_by("id")["text"].to_pylist()
    loaded = rayclf.Classifier.load(rare.folder).probabilities(texts)
    np.testing.assert_allclose(loaded, found["probabilities"].to_pylist(), atol=1e-5, rtol=0)
