"""The Open Inference Protocol: its routes, answers by its published schemas, and tensors that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, message, serve
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tiny import TEXTS, Made

import rayclf
from rayclf.data.texts import TextSource
from rayclf.labels import ProblemType
from rayclf.serving.protocol import MAX_CHARACTERS, MAX_INPUTS
from rayclf.serving.protocols import kserve

# components.schemas of specification/protocol/open_inference_rest.yaml
TENSOR = {
    "name": {"type": "string"},
    "datatype": {"type": "string"},
    "shape": {"type": "array", "items": {"type": "integer"}},
}
METADATA_TENSOR = {"type": "object", "required": ["name", "datatype", "shape"], "properties": TENSOR}
SERVER = {
    "type": "object",
    "required": ["name", "version", "extensions"],
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "extensions": {"type": "array", "items": {"type": "string"}},
    },
}
MODEL = {
    "type": "object",
    "required": ["name", "platform"],
    "properties": {
        "name": {"type": "string"},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": METADATA_TENSOR},
        "outputs": {"type": "array", "items": METADATA_TENSOR},
    },
}
OUTPUT = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": TENSOR | {"data": {"type": "array", "items": {"type": ["number", "string", "boolean"]}}},
}
INFERENCE = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": OUTPUT},
    },
}


@pytest.fixture(scope="module")
def endpoint(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert", kind=ProblemType.MULTILABEL))


@pytest.fixture
def http(endpoint: FakeEndpoint) -> TestClient:
    return serve(endpoint, kserve.router, kserve.health_router)


def text(data: list[Any], **fields: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [len(data)], "datatype": "BYTES", "data": data} | fields


def test_the_server(http: TestClient) -> None:
    for path in ("/v2", "/v2/"):
        body = http.get(path, follow_redirects=False).json()
        jsonschema.validate(body, SERVER)
        assert body == {"name": "rayclf", "version": rayclf.__version__, "extensions": []}


def test_health(http: TestClient, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json()["ready"] is True
    assert http.get("/v2/models/it/ready").json() == {"name": "it", "ready": True}
    assert message(http.get("/v2/models/none/ready"), 404) == "no model none"
    monkeypatch.setattr(endpoint, "ready", False)
    for path in ("/v2/health/ready", "/v2/models/it/ready"):
        response = http.get(path)
        assert message(response, 503) == "model it is not ready yet; try again"
        assert response.headers["retry-after"] == "1"
    assert http.get("/v2/health/live").status_code == 200


def test_the_metadata_of_a_model(http: TestClient, make: Callable[..., Made]) -> None:
    body = http.get("/v2/models/it").json()
    jsonschema.validate(body, MODEL)
    assert body["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    shapes = {output["name"]: (output["datatype"], output["shape"]) for output in body["outputs"]}
    assert shapes == {"label": ("BYTES", [-1]), "probabilities": ("FP32", [-1, 4]), "holds": ("BOOL", [-1, 4])}
    assert body["parameters"] == {"labels": [*"abcd"], "problem_type": "multilabel", "thresholds": [0.5] * 4}
    assert message(http.get("/v2/models/none"), 404) == "no model none"
    pairs = FakeEndpoint(it=make("bert", reads=TextSource(text="a", text_pair="b")))
    inputs = serve(pairs, kserve.router).get("/v2/models/it").json()["inputs"]
    assert [tensor["name"] for tensor in inputs] == ["text", "text_pair"]


@pytest.mark.parametrize("shape", ["flat", "column of flat data", "column"])
def test_inference(http: TestClient, endpoint: FakeEndpoint, shape: str) -> None:
    size = len(TEXTS)
    tensor = {
        "flat": text(TEXTS),
        "column of flat data": text(TEXTS, shape=[size, 1]),
        "column": text([[one] for one in TEXTS], shape=[size, 1], parameters={"content_type": "str"}),
    }[shape]
    body = http.post("/v2/models/it/infer", json={"id": "42", "inputs": [tensor], "parameters": {"x": 1}}).json()
    jsonschema.validate(body, INFERENCE)
    assert (body["model_name"], body["id"]) == ("it", "42")
    assert "model_version" not in body  # as of servers without versions
    classifier = endpoint.classifiers["it"]
    outputs = {output["name"]: output for output in body["outputs"]}
    assert list(outputs) == ["label", "probabilities", "holds"]
    assert outputs["label"]["shape"] == [size]
    assert outputs["label"]["data"] == [one.label for one in classifier.predict(TEXTS)]
    assert outputs["probabilities"]["shape"] == outputs["holds"]["shape"] == [size, 4]
    probabilities = classifier.probabilities(TEXTS)
    np.testing.assert_allclose(outputs["probabilities"]["data"], probabilities.ravel(), rtol=1e-6)
    assert outputs["holds"]["data"] == classifier.decide(probabilities).ravel().tolist()
    assert {name: output["datatype"] for name, output in outputs.items()} == {
        "label": "BYTES",
        "probabilities": "FP32",
        "holds": "BOOL",
    }


def test_only_the_outputs_that_are_asked_for(http: TestClient) -> None:
    asked = [{"name": "probabilities", "parameters": {"binary_data": False}}, {"name": "label"}, {"name": "label"}]
    body = http.post("/v2/models/it/infer", json={"inputs": [text(["a"])], "outputs": asked}).json()
    assert [output["name"] for output in body["outputs"]] == ["probabilities", "label"]
    assert "id" not in body


def test_pairs(make: Callable[..., Made]) -> None:
    endpoint = FakeEndpoint(it=make("bert", reads=TextSource(text="a", text_pair="b")))
    tensors = [text(["c", "d"], name="text_pair"), text(["a", "b"])]
    assert serve(endpoint, kserve.router).post("/v2/models/it/infer", json={"inputs": tensors}).status_code == 200
    assert endpoint.asked == [[("a", "c"), ("b", "d")]]


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ([], "inputs: List should have at least 1 item after validation, not 0"),
        ([text(["a"], name="input0")], "inputs[0].name: Input should be 'text' or 'text_pair'"),
        ([text(["a"], datatype="FP32")], "inputs[0].datatype: Input should be 'BYTES'"),
        ([text(["a"], shape=[2])], "inputs[0]: shape should be [1] or [1, 1], as data holds 1 texts"),
        ([text(["a", "b"], shape=[1, 2])], "inputs[0]: shape should be [2] or [2, 1], as data holds 2 texts"),
        ([text(["a"], shape=[-1])], "inputs[0].shape[0]: Input should be greater than or equal to 0"),
        ([text([])], "inputs[0].data: List should have at least 1 item after validation, not 0"),
        ([text([3])], "inputs[0].data[0]: Input should be a valid string"),
        ([text(["a", " "])], "inputs[0].data[1]: Text should not be empty"),
        ([text([["a", "b"]])], "inputs[0].data[0]: Tuple should have at most 1 item after validation, not 2"),
        ([text(["x" * (MAX_CHARACTERS + 1)])], "inputs[0].data[0]: String should have at most 200000 characters"),
        (
            [text(["a"] * (MAX_INPUTS + 1))],
            "inputs[0].data: List should have at most 1024 items after validation, not 1025",
        ),
        ([text(["a"], name="text_pair")], "inputs: give a tensor text and, for pairs, a tensor text_pair"),
        ([text(["a"]), text(["a"])], "inputs: give a tensor text and, for pairs, a tensor text_pair"),
        (
            [text(["a"]), text(["a", "b"], name="text_pair")],
            "inputs: text and text_pair should hold the same number of texts",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refusals_name_the_field(http: TestClient, tensors: list[Any], line: str) -> None:
    assert message(http.post("/v2/models/it/infer", json={"inputs": tensors})) == line


def test_an_output_that_is_not_there(http: TestClient) -> None:
    response = http.post("/v2/models/it/infer", json={"inputs": [text(["a"])], "outputs": [{"name": "score"}]})
    assert message(response) == "outputs[0].name: Input should be 'label', 'probabilities' or 'holds'"


@given(st.lists(st.text(min_size=1, max_size=5).map("a".__add__), min_size=1, max_size=5), st.booleans())
def test_both_shapes_hold_the_same_texts(texts: list[str], column: bool) -> None:
    data = [[one] for one in texts] if column else texts
    request = kserve.InferRequest(inputs=[text(data, shape=[len(texts), 1] if column else [len(texts)])])  # type: ignore[list-item]
    assert request.plain == texts
