"""The endpoint over real HTTP: answers, refusals, keys, several models, a schedule, and what is told of requests."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import ray
from fake_endpoint import error
from prometheus_client.parser import text_string_to_metric_families

import rayclf
from rayclf.demo.lessons import free_port
from rayclf.errors import OutputError, ResourceError, UserError

KEY = "a-key-for-the-test"


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.jsonl"


@pytest.fixture(scope="module")
def client(encoder_run: rayclf.Run, log_file: Path) -> Iterator[httpx.Client]:
    """A client, with its key, of the served encoder run, on loopback with ``keys``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLF_API_KEY", KEY)
        patch.setenv("RAYCLF_ACCESS_LOG", str(log_file))
        patch.setenv("RAYCLF_HOME", str(log_file.parent))
        with rayclf.serve(encoder_run.artifact, port=free_port(), model="questions", keys=True) as server:
            headers = {"authorization": f"Bearer {KEY}"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:
                yield client


def test_named_probabilities(client: httpx.Client) -> None:
    answer = client.post("/v1/classify", json={"inputs": ["What is a cell?", "Solve for x."]}).json()
    assert answer["model"] == "questions"
    assert len(answer["results"]) == 2
    for result in answer["results"]:
        assert set(result) == {"label", "score", "labels", "probabilities"}
        assert set(result["probabilities"]) == {"biology", "chemistry", "mathematics", "physics"}
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert result["probabilities"][result["label"]] == result["score"]
        assert result["labels"] == [result["label"]]
    assert answer["usage"]["tokens"] > 2


def test_top_k_and_logits(client: httpx.Client) -> None:
    request = {"inputs": ["What is a cell?"], "top_k": 2, "output": "logits"}
    result = client.post("/v1/classify", json=request).json()["results"][0]
    values = list(result["logits"].values())
    assert len(values) == 2
    assert values == sorted(values, reverse=True)
    assert next(iter(result["logits"])) == result["label"]


def test_requests_at_once_are_batched_and_not_mixed_up(client: httpx.Client) -> None:
    texts = [f"what is the cell number {i} " * (1 + i % 5) for i in range(40)]
    alone = [client.post("/v1/classify", json={"inputs": [text]}).json()["results"][0]["score"] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda text: client.post("/v1/classify", json={"inputs": [text]}).json(), texts))
    assert [answer["results"][0]["score"] for answer in together] == pytest.approx(alone, abs=1e-5)


def test_wrong_requests_have_one_shape(client: httpx.Client) -> None:
    assert "inputs" in error(client.post("/v1/classify", json={"inputs": [""]}), 422, "invalid")
    assert "unknown" in error(client.post("/v1/classify", json={"inputs": ["a"], "unknown": 1}), 422, "invalid")
    assert "none" in error(client.post("/v1/classify", json={"inputs": ["a"], "model": "none"}), 404, "not_found")
    error(client.post("/v1/classify", content="{", headers={"content-type": "application/json"}), 400, "bad_request")
    error(client.get("/nowhere"), 404, "not_found")
    error(client.post("/v1/classify", content=b"x" * 11_000_000), 413, "too_large")


def test_the_key_is_asked_for(client: httpx.Client) -> None:
    body = {"inputs": ["What is a cell?"]}
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
        answer = client.post("/v1/classify", json=body, headers=headers)
        error(answer, 401, "unauthorized")
        assert KEY not in answer.text
    for path in ("/v1/model", "/metrics"):
        error(client.get(path, headers={"authorization": "Bearer wrong"}), 401, "unauthorized")


def test_every_protocol(client: httpx.Client) -> None:
    text = "What is a cell?"
    native = client.post("/v1/classify", json={"inputs": [text]}).json()["results"][0]
    form = client.post("/v1/classification", json={"input": text}).json()["data"][0]
    assert (form["label"], max(form["probs"])) == (native["label"], pytest.approx(native["score"]))
    vllm = client.post("/classify", json={"input": text}).json()["data"][0]
    assert (vllm["label"], max(vllm["probs"])) == (native["label"], pytest.approx(native["score"]))
    tei = client.post("/predict", json={"inputs": text}).json()[0]
    assert (tei["label"], tei["score"]) == (native["label"], pytest.approx(native["score"]))
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    kserve = client.post("/v2/models/questions/infer", json={"inputs": [tensor]}).json()
    assert kserve["outputs"][0]["data"] == [native["label"]]


def test_metrics_and_the_log_tell_of_a_request(client: httpx.Client, log_file: Path) -> None:
    secret = "What is a cell that nobody may read of?"
    answer = client.post("/v1/classify", json={"inputs": [secret]}, headers={"x-request-id": "seen-again"})
    assert answer.headers["x-request-id"] == "seen-again"
    text = client.get("/metrics").text
    found = {s.name for family in text_string_to_metric_families(text) for s in family.samples if s.value > 0}
    assert {"rayclf_requests_total", "rayclf_queue_seconds_count", "rayclf_cold_start_seconds_count"} <= found
    lines = [json.loads(line) for line in log_file.read_text().splitlines()]
    (line,) = [line for line in lines if line["request_id"] == "seen-again"]
    assert (line["route"], line["status"], line["model"], line["inputs"]) == ("/v1/classify", 200, "questions", 1)
    assert (line["key"], line["tokens"]) == ("environment", answer.json()["usage"]["tokens"])
    for told in (text, log_file.read_text()):
        assert secret not in told
        assert KEY not in told


def test_ray_has_the_metrics_of_the_replica(client: httpx.Client) -> None:
    client.post("/v1/classify", json={"inputs": ["What is a cell?"]})
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = 'ray_rayclf_requests_total{.*deployment="Ingress".*model="questions"'
    for _ in range(60):  # replicas tell their node every few seconds
        if re.search(wanted, httpx.get(url, timeout=30).text):
            return
        time.sleep(1)
    raise AssertionError("Ray shows no metric of the replica")


def test_health_model_and_the_api_page(client: httpx.Client) -> None:
    assert client.get("/health", headers={"authorization": ""}).json() == {"status": "ok"}
    about = client.get("/v1/model").json()
    assert about["problem_type"] == "multiclass"
    assert about["metrics"]["test"]["accuracy"] > 0
    assert client.get("/docs").status_code == 200
    page = client.get("/", headers={"authorization": ""})
    assert "<title>rayclf</title>" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self' 'sha256-")
    schema = client.get("/openapi.json").json()
    assert "/v1/classify" in schema["paths"]
    assert "inputs" in schema["components"]["schemas"]["ClassifyRequest"]["properties"]


def test_a_second_application_is_refused_while_one_is_served(client: httpx.Client, encoder_run: rayclf.Run) -> None:
    with pytest.raises(ResourceError, match="already serves"):
        rayclf.serve(encoder_run.artifact, port=free_port())


def test_beyond_loopback_a_key_is_needed(encoder_run: rayclf.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYCLF_API_KEY", raising=False)
    with pytest.raises(UserError, match="RAYCLF_API_KEY"):
        rayclf.serve(encoder_run.artifact, host="0.0.0.0")  # refused


def test_a_log_that_cannot_be_written_shows_before_ray_starts(
    encoder_run: rayclf.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAYCLF_ACCESS_LOG", str(tmp_path / "none" / "log"))
    with pytest.raises(OutputError, match="RAYCLF_ACCESS_LOG"):
        rayclf.serve(encoder_run.artifact)
