"""What Ray shows of jobs while they run; the driver of those here is this process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

import rayclf
from rayclf.job_metrics import TrainGauges


def shown(**labels: str) -> dict[str, float]:
    """The metrics with these labels, on the metrics port of this node."""
    node = ray.nodes()[0]
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=30).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.name.removeprefix("ray_rayclf_"): s.value for s in samples if labels.items() <= s.labels.items()}


def wait_for(wanted: dict[str, float], **labels: str) -> None:
    """Processes tell their node of them from time to time."""
    deadline = time.monotonic() + 90
    while not wanted.items() <= (found := shown(**labels)).items():
        assert time.monotonic() < deadline, f"{wanted} is not in {found}"
        time.sleep(1)


@pytest.fixture(scope="module")
def slow(cluster: None) -> tuple[TrainGauges, float]:
    """Gauges of a job that says nothing more, and since when; the other test's job runs meanwhile."""
    gauges = TrainGauges(run="slow")
    gauges.event({"kind": "step", "step": 3, "loss": float("nan"), "epoch": 1})
    wait_for({"train_step": 3}, run="slow")
    return gauges, time.monotonic()


def test_ray_shows_how_far_jobs_are(
    slow: object, few_messages: Path, backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, out = tmp_path / "run", tmp_path / "out"
    seen = list[str]()

    def watch(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 1:
            wait_for({"train_step": 1, "train_loss": event["loss"]}, run=str(folder))
        elif event["kind"] == "evaluation" and event["part"] == "validation":
            wait_for({"train_evaluation": event["accuracy"]}, run=str(folder), part="validation", metric="accuracy")
        elif event["kind"] == "unit":
            wait_for({"score_rows": event["rows"], "score_of": event["of"]}, output=str(out))
        else:
            return
        seen.append(event["kind"])

    run = rayclf.train(
        few_messages, folder, backbone=str(backbone("bert")), overrides={"train.epochs": 1}, on_event=watch
    )
    rayclf.score(run.artifact, few_messages, out, on_event=watch)
    assert {"step", "evaluation", "unit"} == set(seen)


def test_a_gauge_stays_for_as_long_as_its_job(slow: tuple[TrainGauges, float]) -> None:
    """Ray forgets one that is not set again."""
    gauges, began = slow
    time.sleep(max(0.0, began + 30 - time.monotonic()))
    assert shown(run="slow") == {"train_step": 3, "train_epoch": 1}
    gauges.finish(rayclf.Run(Path("nowhere")), "done")
    assert not gauges._thread.is_alive()
