"""The native routes, asked over HTTP in front of tiny classifiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, message, serve
from starlette.testclient import TestClient
from tiny import TEXTS, Made

from rayclf.labels import ProblemType
from rayclf.serving.protocol import MAX_INPUTS
from rayclf.serving.protocols import native


@pytest.fixture
def endpoint(make: Callable[..., Made], kind: ProblemType) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert", kind=kind), other=make("bert"))


@pytest.fixture
def http(endpoint: FakeEndpoint) -> TestClient:
    return serve(endpoint, native.router)


def test_the_answer_is_the_prediction(http: TestClient, endpoint: FakeEndpoint) -> None:
    body = http.post("/v1/classify", json={"inputs": TEXTS}).json()
    classifier = endpoint.classifiers["it"]
    assert body["model"] == "it"
    assert body["usage"] == {"tokens": sum(map(len, classifier.encode(TEXTS)))}
    for result, expected in zip(body["results"], classifier.predict(TEXTS), strict=True):
        assert (result["label"], result["labels"]) == (expected.label, expected.labels)
        assert result["score"] == pytest.approx(expected.score)
        assert result["probabilities"] == pytest.approx(expected.probabilities)
        assert list(result["probabilities"].values()) == sorted(expected.probabilities.values(), reverse=True)
        assert "logits" not in result


def test_logits_of_the_most_probable(http: TestClient, endpoint: FakeEndpoint) -> None:
    body = http.post("/v1/classify", json={"inputs": TEXTS, "output": "logits", "top_k": 1}).json()
    highest = endpoint.classifiers["it"].logits(TEXTS).max(axis=1)
    assert [list(result["logits"].values()) for result in body["results"]] == [[pytest.approx(x)] for x in highest]


def test_a_threshold_of_the_request(http: TestClient, endpoint: FakeEndpoint, kind: ProblemType) -> None:
    classifier = endpoint.classifiers["it"]
    probabilities = classifier.probabilities(TEXTS)
    middle = float(np.median(probabilities.max(axis=1)))
    body = http.post("/v1/classify", json={"inputs": TEXTS, "threshold": middle}).json()
    for row, result in zip(probabilities, body["results"], strict=True):
        reached = row >= np.float32(middle)
        if kind is ProblemType.MULTICLASS:
            reached &= row == row.max()
        assert result["labels"] == [name for name, yes in zip(classifier.space.names, reached, strict=True) if yes]
        if kind is ProblemType.BINARY:
            assert result["label"] == ("spam" if reached[0] else "not spam")
    assert 0 < sum(bool(result["labels"]) for result in body["results"]) < len(TEXTS)


def test_a_model_by_name(http: TestClient, endpoint: FakeEndpoint) -> None:
    body = http.post("/v1/classify", json={"inputs": ["A cell!"], "model": "other"}).json()
    assert body["model"] == "other"
    assert body["results"][0]["label"] == endpoint.classifiers["other"].predict(["A cell!"])[0].label
    assert message(http.post("/v1/classify", json={"inputs": ["A cell!"], "model": "none"}), 404) == "no model none"


def test_the_list_of_models(http: TestClient, endpoint: FakeEndpoint, kind: ProblemType) -> None:
    body = http.get("/v1/models").json()
    assert body["object"] == "list"
    first, second = body["data"]
    assert (first["id"], first["object"], first["problem_type"], first["ready"]) == ("it", "model", kind, True)
    assert (second["id"], second["num_labels"], second["input"]) == ("other", 3, "text")
    assert first["created"] > 1.7e9
    assert Path(first["backbone"]).name == first["backbone"], (
        "where a backbone lies on the machine is nobody's business"
    )


def test_one_model(http: TestClient, endpoint: FakeEndpoint, kind: ProblemType) -> None:
    info = endpoint.classifiers["it"].info
    body = http.get("/v1/model").json()
    assert body == {
        "model": "it",
        **info.label_space,
        "thresholds": info.thresholds,
        "input": "text",
        "max_length": 64,
        "backbone": Path(info.backbone.id).name,
        "metrics": {},
    }
    assert http.get("/v1/model", params={"model": "other"}).json()["model"] == "other"
    assert message(http.get("/v1/model", params={"model": "none"}), 404) == "no model none"


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ({"threshold": 1.5}, "threshold: Input should be less than or equal to 1"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1"),
        ({"model": ""}, "model: String should have at least 1 character"),
        ({"output": "probs"}, "output: Input should be 'probabilities' or 'logits'"),
        ({"treshold": 1}, "treshold: Extra inputs are not permitted"),
        (
            {"inputs": ["a"] * (MAX_INPUTS + 1)},
            "inputs: List should have at most 1024 items after validation, not 1025",
        ),
        (
            {"inputs": [["a", "b"]]},
            "text 1 of 1 must be one string; this classifier reads neither pairs nor chat messages",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(make: Callable[..., Made], field: dict[str, object], line: str) -> None:
    http = serve(FakeEndpoint(it=make("bert")), native.router)
    assert message(http.post("/v1/classify", json={"inputs": ["a"]} | field)) == line


def test_the_schema_has_an_example_that_works(http: TestClient) -> None:
    schema = http.get("/openapi.json").json()
    (example,) = schema["components"]["schemas"]["ClassifyRequest"]["examples"]
    assert http.post("/v1/classify", json=example).status_code == 200
