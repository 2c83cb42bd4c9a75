"""TEI's route: the forms of ``inputs``, and an answer by its published schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, message, serve
from hypothesis import given
from hypothesis import strategies as st
from tiny import TEXTS, Made

from rayclf.data.texts import TextSource
from rayclf.labels import ProblemType
from rayclf.serving.protocol import MAX_INPUTS
from rayclf.serving.protocols import tei

# components.schemas of TEI's docs/openapi.json
PREDICTION = {
    "type": "object",
    "required": ["score", "label"],
    "properties": {"label": {"type": "string"}, "score": {"type": "number"}},
    "additionalProperties": False,
}
SINGLE = {"type": "array", "items": PREDICTION}
BATCH = {"type": "array", "items": SINGLE}


@pytest.fixture
def endpoint(make: Callable[..., Made], kind: ProblemType) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert", kind=kind))


@pytest.fixture(scope="module")
def texts(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert"))


@pytest.fixture(scope="module")
def pairs(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert", reads=TextSource(text="a", text_pair="b")))


@pytest.mark.parametrize("raw", [False, True])
def test_every_label_highest_first(endpoint: FakeEndpoint, raw: bool) -> None:
    asked = {"inputs": [[text] for text in TEXTS], "raw_scores": raw}
    body = serve(endpoint, tei.router).post("/predict", json=asked).json()
    jsonschema.validate(body, BATCH)
    classifier = endpoint.classifiers["it"]
    numbers = classifier.logits(TEXTS) if raw else classifier.probabilities(TEXTS)
    for found, row in zip(body, numbers, strict=True):
        expected = sorted(zip(classifier.space.names, row.tolist(), strict=True), key=lambda pair: -pair[1])
        assert [one["label"] for one in found] == [name for name, _ in expected]
        np.testing.assert_allclose([one["score"] for one in found], [score for _, score in expected], rtol=1e-6)


def test_multilabel_is_a_sigmoid_each(make: Callable[..., Made]) -> None:
    endpoint = FakeEndpoint(it=make("bert", kind=ProblemType.MULTILABEL))
    body = serve(endpoint, tei.router).post("/predict", json={"inputs": "A cell!"}).json()
    (logits,) = endpoint.classifiers["it"].logits(["A cell!"])
    by_name = {one["label"]: one["score"] for one in body}
    np.testing.assert_allclose([by_name[name] for name in "abcd"], 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert sum(by_name.values()) != pytest.approx(1, abs=1e-3)  # what TEI's softmax would make of it


@pytest.mark.parametrize("inputs", ["A cell!", ["A cell!"]], ids=str)
def test_a_single_text_has_a_single_answer(texts: FakeEndpoint, inputs: Any) -> None:
    jsonschema.validate(serve(texts, tei.router).post("/predict", json={"inputs": inputs}).json(), SINGLE)
    assert texts.asked[-1] == ["A cell!"]


def test_pairs(pairs: FakeEndpoint) -> None:
    http = serve(pairs, tei.router)
    single = http.post("/predict", json={"inputs": ["a cell", "energy"]}).json()
    jsonschema.validate(single, SINGLE)
    batch = http.post("/predict", json={"inputs": [["a cell", "energy"], ["the", "bank"]]}).json()
    jsonschema.validate(batch, BATCH)
    assert len(batch) == 2
    assert batch[0] == [{**one, "score": pytest.approx(one["score"], abs=1e-5)} for one in single]
    assert pairs.asked[-2:] == [[("a cell", "energy")], [("a cell", "energy"), ("the", "bank")]]


def test_lengths(texts: FakeEndpoint) -> None:
    http = serve(texts, tei.router)
    long = {"inputs": "energy " * 200}
    for fields in ({}, {"truncate": True}, {"truncate": None}, {"truncation_direction": "right"}):
        assert http.post("/predict", json=long | fields).status_code == 200
    for fields in ({"truncate": False}, {"truncation_direction": "Left"}, {"truncation_direction": "left"}):
        assert message(http.post("/predict", json=long | fields)) == "too long"
        assert http.post("/predict", json={"inputs": "a"} | fields).status_code == 200


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        ("", "inputs: Text should not be empty"),
        ([], "inputs: List should have at least 1 item after validation, not 0"),
        (["a", "b", "c"], "inputs: List should have at most 2 items after validation, not 3"),
        ([["a"], ["b", " "]], "inputs[1][1]: Text should not be empty"),
        ([["a"], "b"], "inputs[1]: Input should be a valid list"),
        (["a", ["b"]], "inputs[1]: Input should be a valid string"),
        ([[]], "inputs[0]: List should have at least 1 item after validation, not 0"),
        ([["a"]] * (MAX_INPUTS + 1), "inputs: List should have at most 1024 items after validation, not 1025"),
        (7, "inputs: Input should be a text, a pair [text, text] or a batch [[text], [text, text], …]"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(texts: FakeEndpoint, inputs: Any, line: str) -> None:
    assert message(serve(texts, tei.router).post("/predict", json={"inputs": inputs})) == line


def test_an_unknown_model(texts: FakeEndpoint) -> None:
    http = serve(texts, tei.router)
    assert message(http.post("/predict", json={"inputs": "a", "model": "none"}), 404) == "no model none"


WORDS = st.text(max_size=5).map("a".__add__)
STRINGS = st.lists(WORDS, min_size=1, max_size=2)


@given(WORDS | STRINGS | st.lists(STRINGS, min_size=1, max_size=5))
def test_every_form_is_one_of_the_three(inputs: Any) -> None:
    request = tei.PredictRequest(inputs=inputs)
    lists = tei._lists(request.inputs)
    assert (lists or [tei._one(request.inputs)]) == (
        [[inputs]] if isinstance(inputs, str) else inputs if isinstance(inputs[0], list) else [inputs]
    )
    assert bool(lists) == (not isinstance(inputs, str) and isinstance(inputs[0], list))
