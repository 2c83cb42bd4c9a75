"""Metrics: true counts, in a form that Prometheus reads, and the same ones told to Ray."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rayclf.labels import LabelSpace, ProblemType
from rayclf.serving.answer import Answer
from rayclf.serving.batching import BatchReport, Counters
from rayclf.serving.host import LoadCounters
from rayclf.serving.metrics import DEFINITIONS, Metrics

ROOT = Path(__file__).parents[2]
SPACE = LabelSpace(("law", 'a "quoted"\nlabel', "money"), ProblemType.MULTICLASS)


def answer(rows: list[list[float]], space: LabelSpace = SPACE, tokens: int = 5) -> Answer:
    values = np.array(rows, dtype=np.float32)
    return Answer("it", space, values, values, values == values.max(axis=1, keepdims=True), [tokens] * len(rows))


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What Prometheus would read: name and values of labels, in the order of their names, to number."""
    families = text_string_to_metric_families(metrics.text().decode())
    return {(s.name, *(s.labels[name] for name in sorted(s.labels))): s.value for f in families for s in f.samples}


def fake_ray() -> Any:
    """What Ray's metrics module is to :class:`Metrics`, which takes the place of a running Ray."""
    told: dict[tuple[str, ...], float] = defaultdict(float)

    def kind(record: str, adds: bool) -> Any:
        def make(name: str, description: str, tag_keys: tuple[str, ...], boundaries: list[float] | None = None) -> Any:
            assert (boundaries is not None) == (record == "observe")
            assert description

            def take(value: float, tags: dict[str, str]) -> None:
                assert set(tags) == set(tag_keys)
                assert value > 0 or record != "inc", "Ray raises ValueError"
                place = (name, *(tags[key] for key in sorted(tags)))
                told[place] = told[place] + value if adds else value

            return SimpleNamespace(**{record: take})

        return make

    return SimpleNamespace(
        told=told, Counter=kind("inc", True), Gauge=kind("set", False), Histogram=kind("observe", True)
    )


def test_counts_of_answers() -> None:
    metrics = Metrics()
    metrics.answered(answer([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]), 0.02)
    metrics.answered(answer([[0.1, 0.8, 0.1]], tokens=7), 2.0)
    metrics.failed("overloaded")
    metrics.http("/v1/classify", "POST", 503)
    found = samples(metrics)
    assert found["rayclf_requests_total", "it"] == 2
    assert found["rayclf_inputs_total", "it"] == 4
    assert found["rayclf_tokens_total", "it"] == 22
    assert found["rayclf_predictions_total", "law", "it"] == 2
    assert found["rayclf_predictions_total", 'a "quoted"\nlabel', "it"] == 1
    assert found["rayclf_confidence_total", "it"] == pytest.approx(0.7 + 0.5 + 0.6 + 0.8)
    assert found["rayclf_request_seconds_sum", "it"] == pytest.approx(2.02)
    assert found["rayclf_request_seconds_bucket", "0.025", "it"] == 1
    assert found["rayclf_request_errors_total", "overloaded"] == 1
    assert found["rayclf_http_requests_total", "POST", "/v1/classify", "503"] == 1


def test_a_space_of_many_labels_makes_one_series() -> None:
    metrics = Metrics()
    space = LabelSpace(tuple(f"label {i}" for i in range(1001)), ProblemType.MULTICLASS)
    metrics.answered(answer([list(np.eye(1001)[i]) for i in range(5)], space), 0.1)
    predictions = {place: value for place, value in samples(metrics).items() if place[0] == "rayclf_predictions_total"}
    assert predictions == {("rayclf_predictions_total", "", "it"): 5}


def test_batches_queue_and_loads() -> None:
    metrics = Metrics()
    counters, loads = Counters(), LoadCounters()
    assert ("rayclf_cold_start_seconds_count",) not in {k for k, v in samples(metrics).items() if v}
    loads.loads, loads.load_seconds = 1, 2.5
    metrics.watch(lambda: counters, loads)
    counters.queue_rows, counters.queue_tokens, counters.shed, counters.cancelled = 3, 40, 2, 1
    metrics.batch(BatchReport(rows=4, tokens=100, compute_seconds=0.3, queue_seconds=(0.01, 0.02), failed=False))
    loads.loads, loads.load_seconds, loads.evictions = 3, 4.0, 1
    counters.queue_rows, counters.shed = 0, 5
    found = samples(metrics)
    assert found["rayclf_cold_start_seconds_count",] == 1
    assert found["rayclf_queue_seconds_count",] == 2
    assert found["rayclf_inference_seconds_sum",] == pytest.approx(0.3)
    assert found["rayclf_batch_tokens_bucket", "128.0"] == 1
    assert found["rayclf_batch_size_sum",] == 4
    assert (found["rayclf_queue_rows",], found["rayclf_queue_tokens",]) == (0, 40)
    assert (found["rayclf_requests_shed_total",], found["rayclf_requests_cancelled_total",]) == (5, 1)
    assert (found["rayclf_model_loads_total",], found["rayclf_model_load_seconds_total",]) == (3, 4.0)
    assert found["rayclf_model_evictions_total",] == 1


events = st.lists(
    st.one_of(
        st.tuples(st.just("answered"), st.integers(1, 9), st.floats(0, 100)),
        st.tuples(st.just("failed"), st.sampled_from(["overloaded", "timeout"])),
        st.tuples(st.just("http"), st.sampled_from(["/", "/v1/classify"]), st.sampled_from([200, 503])),
        st.tuples(st.just("batch"), st.integers(1, 9), st.floats(0, 100)),
        st.tuples(st.just("counts"), st.integers(0, 9), st.integers(0, 9)),
    ),
    max_size=20,
)


@settings(max_examples=25)
@given(events)
def test_ray_is_told_the_same(happened: list[tuple[Any, ...]]) -> None:
    ray, counters, loads = fake_ray(), Counters(), LoadCounters()
    metrics = Metrics(ray)
    metrics.watch(lambda: counters, loads)
    for what, *told in happened:
        if what == "answered":
            metrics.answered(answer([[0.5, 0.25, 0.25]] * told[0]), told[1])
        elif what == "failed":
            metrics.failed(told[0])
        elif what == "http":
            metrics.http(told[0], "POST", told[1])
        elif what == "batch":
            metrics.batch(BatchReport(told[0], 5 * told[0], told[1], (told[1],), False))
        else:
            counters.shed, counters.queue_rows = counters.shed + told[0], told[1]
    endings = {"Counter": "_total", "Gauge": "", "Histogram": "_sum"}
    found = samples(metrics)
    for name, one in DEFINITIONS.items():
        own = {k[1:]: v for k, v in found.items() if k[0] == f"rayclf_{name}{endings[one.kind]}"}
        assert {k[1:]: v for k, v in ray.told.items() if k[0] == f"rayclf_{name}"} == pytest.approx(
            {k: v for k, v in own.items() if v or one.kind != "Counter"}
        ) or (one.kind == "Histogram" and not any(own.values()))


def test_ray_has_metrics_of_these_names() -> None:
    """Its own module takes every definition, outside of a cluster too, where it keeps them to itself."""
    from ray.serve import metrics as ray_metrics

    assert isinstance(ray_metrics, ModuleType)
    metrics = Metrics(ray_metrics)
    metrics.answered(answer([[0.5, 0.3, 0.2]]), 0.1)
    metrics.batch(BatchReport(1, 5, 0.1, (0.1,), False))
    assert samples(metrics)["rayclf_requests_total", "it"] == 1


@pytest.mark.parametrize("file", ["docs/concepts/serving.md", "cluster/grafana/rayclf-serving.json"])
def test_what_is_written_of_metrics_is_true(file: str) -> None:
    """Every metric is in the page and in the dashboard, and neither speaks of one that is not there."""
    text = (ROOT / file).read_text()
    endings = {"Counter": "_total", "Gauge": "", "Histogram": ""}
    names = {f"{name}{endings[one.kind]}" for name, one in DEFINITIONS.items()}
    if file.endswith(".json"):
        assert all(panel["targets"] for panel in json.loads(text)["panels"] if panel["type"] != "row")
        spoken = {name.removesuffix("_bucket") for name in re.findall(r"\$\{prefix\}_(\w+)", text)}
    else:
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        spoken = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert spoken == names
