"""The endpoint over real HTTP: answers, refusals, keys."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import rayclf
from rayclf.demo.lessons import free_port
from rayclf.errors import ResourceError, UserError

KEY = "a-key-for-the-test"


@pytest.fixture(scope="module")
def client(encoder_run: rayclf.Run) -> Iterator[httpx.Client]:
    """A client, with its key, of the served encoder run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLF_API_KEY", KEY)
        with rayclf.serve(encoder_run.artifact, port=free_port(), model="questions") as server:
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


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [""]},
        {"inputs": ["  "]},
        {"inputs": "text"},
        {"inputs": [1]},
        {"inputs": ["a"] * 1025},
        {"inputs": ["a"], "top_k": 0},
        {"inputs": ["a"], "output": "magic"},
        {"inputs": ["a"], "unknown": 1},
    ],
    ids=lambda body: str(body)[:40],
)
def test_wrong_requests_are_422(client: httpx.Client, body: dict[str, object]) -> None:
    assert client.post("/v1/classify", json=body).status_code == 422


def test_the_key_is_asked_for(client: httpx.Client) -> None:
    body = {"inputs": ["What is a cell?"]}
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
        answer = client.post("/v1/classify", json=body, headers=headers)
        assert answer.status_code == 401
        assert KEY not in answer.text
    assert client.get("/v1/model", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_health_model_and_the_api_page(client: httpx.Client) -> None:
    assert client.get("/health", headers={"authorization": ""}).json() == {"status": "ok"}
    about = client.get("/v1/model").json()
    assert about["problem_type"] == "multiclass"
    assert about["metrics"]["test"]["accuracy"] > 0
    assert client.get("/docs").status_code == 200
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
