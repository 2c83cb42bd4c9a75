"""The parity law: for the same rows, every path gives the same probabilities (float32, 1e-5)."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import rayclf
from rayclf.config import DataConfig
from rayclf.data.rows import read_labelled
from rayclf.demo.lessons import free_port

TOLERANCE = 1e-5


@pytest.fixture
def rows(run: rayclf.Run) -> tuple[list[str], np.ndarray]:
    """The test rows' texts, and their probabilities as the evaluation at the end of training gave them."""
    table = pq.read_table(run.folder / "predictions.parquet")
    source = read_labelled(run.status["data"], DataConfig()).table
    texts = dict(zip(source["id"].to_pylist(), source["text"].to_pylist(), strict=True))
    return [texts[i] for i in table["id"].to_pylist()], np.asarray(table["probabilities"].to_pylist(), np.float32)


def close(actual: object, expected: np.ndarray) -> None:
    assert np.ptp(expected, axis=0).max() > 0.01  # rows differ, so agreement means something
    np.testing.assert_allclose(np.asarray(actual), expected, atol=TOLERANCE, rtol=0)


def test_reloaded_artifact(run: rayclf.Run, rows: tuple[list[str], np.ndarray]) -> None:
    texts, expected = rows
    close(rayclf.Classifier.load(run.artifact, precision="fp32").probabilities(texts), expected)


def test_exported_folder(run: rayclf.Run, rows: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    texts, expected = rows
    folder = rayclf.export(run.artifact, tmp_path / "exported")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits
    single = model.config.problem_type == "single_label_classification"
    close((logits.softmax(-1) if single else logits.sigmoid()).numpy(), expected)
    assert [model.config.id2label[i] for i in range(len(model.config.id2label))] == [
        row["label"] for row in run.metrics["test"]["per_label"]
    ]


def test_batch_job(run: rayclf.Run, rows: tuple[list[str], np.ndarray], tmp_path: Path) -> None:
    texts, expected = rows
    pq.write_table(pa.table({"text": texts}), tmp_path / "in.parquet")
    summary = rayclf.score(run.artifact, tmp_path / "in.parquet", tmp_path / "out", text="text", precision="fp32")
    scored = pq.read_table(tmp_path / "out")
    assert scored["text"].to_pylist() == texts
    assert summary.rows == len(texts)
    close(scored["probabilities"].to_pylist(), expected)


def test_endpoint(run: rayclf.Run, rows: tuple[list[str], np.ndarray]) -> None:
    texts, expected = rows
    names = [row["label"] for row in run.metrics["test"]["per_label"]]
    with rayclf.serve(run.artifact, port=free_port(), precision="fp32") as server:
        answer = httpx.post(f"{server.url}/v1/classify", json={"inputs": texts}, timeout=60).raise_for_status().json()
    close([[result["probabilities"][name] for name in names] for result in answer["results"]], expected)


def test_evaluation_while_training(encoder_run: rayclf.Run) -> None:
    """The metrics of the best epoch, measured on the live model, are those of the artifact on the same rows."""
    from rayclf.model.evaluation import Tally, classify, new_state

    classifier = rayclf.Classifier.load(encoder_run.artifact, precision="fp32")
    told = encoder_run.metrics["validation"]
    best = next(
        event
        for event in encoder_run.events
        if event.get("part") == "validation" and event["step"] and event["f1_macro"] == told["f1_macro"]
    )
    rows = rayclf.Dataset.open(encoder_run.folder).read("validation")
    final, live = Tally(new_state(classifier)), Tally(new_state(classifier))
    classify(classifier, rows, final)
    measured = final.compute()
    classifier.calibrate(1.0, classifier.info.thresholds)  # as it was while training
    classify(classifier, rows, live)
    assert live.compute()["log_loss"] == pytest.approx(best["log_loss"], abs=TOLERANCE)
    assert measured["log_loss"] == pytest.approx(told["log_loss"], abs=TOLERANCE)
    assert measured["f1_macro"] == pytest.approx(told["f1_macro"])
