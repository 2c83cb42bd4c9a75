"""One Ray and two small training runs for all integration tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["RAY_metrics_report_interval_ms"] = "3000"  # noqa: SIM112  # before Ray is there: tests wait for its reports

import pytest
import ray

import rayclf
from rayclf.cluster import connect
from rayclf.demo.lessons import data_file


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray, started once."""
    connect()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def encoder_run(cluster: None, backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> rayclf.Run:
    """Multiclass, the whole of a BERT tuned, one worker, in float32, six epochs."""
    return rayclf.train(
        data_file("questions.csv"),
        tmp_path_factory.mktemp("runs") / "encoder",
        backbone=str(backbone("bert")),
        overrides={
            "train.epochs": 6,
            "train.learning_rate": 3e-3,
            "train.precision": "fp32",
            "evaluation.metrics": ["rayclf.sample_metrics:binary_match"],
            "output.track": ["tensorboard"],
        },
    )


@pytest.fixture(scope="session")
def decoder_overrides() -> dict[str, object]:
    """Settings of :func:`decoder_run`: 2 workers, and a row number that they cannot share evenly."""
    return {
        "train.head_rows": 50,
        "train.epochs": 1,
        "train.learning_rate": 3e-3,
        "train.precision": "fp32",
        "train.batch_size": 9,
        "resources.workers": 2,
        "resources.cpus_per_worker": 0.5,
        "data.validation": 0,
        "model.lora.r": 4,
    }


@pytest.fixture(scope="session")
def few_messages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """102 of the demo's messages: with some held out, an odd number is left to train on."""
    lines = data_file("support.jsonl").read_text().splitlines()[:102]
    file = tmp_path_factory.mktemp("data") / "few.jsonl"
    file.write_text("\n".join(lines) + "\n")
    assert all(json.loads(line) for line in lines)
    return file


@pytest.fixture(scope="session")
def decoder_run(
    cluster: None,
    backbone: Callable[[str], Path],
    few_messages: Path,
    decoder_overrides: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
) -> rayclf.Run:
    """Multilabel, LoRA on a Llama, two workers."""
    folder = tmp_path_factory.mktemp("runs") / "decoder"
    return rayclf.train(few_messages, folder, backbone=str(backbone("llama")), overrides=decoder_overrides)


@pytest.fixture(params=["encoder_run", "decoder_run"])
def run(request: pytest.FixtureRequest) -> rayclf.Run:
    """Each of the two runs."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]
