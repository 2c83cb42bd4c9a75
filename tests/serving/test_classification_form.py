"""The id/model/data/usage form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, message, serve
from tiny import TEXTS, Made

from rayclf.labels import ProblemType
from rayclf.serving.protocol import MAX_CHARACTERS, MAX_INPUTS
from rayclf.serving.protocols import classification_form


@pytest.mark.parametrize("data_format", ["probs", "logits", None])
def test_the_form(make: Callable[..., Made], kind: ProblemType, data_format: str | None) -> None:
    endpoint = FakeEndpoint(it=make("bert", kind=kind))
    http = serve(endpoint, classification_form.router)
    asked: dict[str, Any] = {"model": "it", "input": TEXTS, "user": "somebody"}
    body = http.post("/v1/classification", json=asked | ({"data_format": data_format} if data_format else {})).json()
    classifier = endpoint.classifiers["it"]
    tokens = sum(map(len, classifier.encode(TEXTS)))
    assert body["id"].startswith("classify-")
    assert (body["object"], body["model"]) == ("list", "it")
    assert body["created"] > 1.7e9
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    field = data_format or "probs"
    assert all(entry.keys() == {"index", "label", field, "num_classes"} for entry in body["data"])
    assert [entry["index"] for entry in body["data"]] == list(range(len(TEXTS)))
    assert [entry["label"] for entry in body["data"]] == [one.label for one in classifier.predict(TEXTS)]
    expected = classifier.logits(TEXTS) if field == "logits" else classifier.probabilities(TEXTS)
    np.testing.assert_allclose([entry[field] for entry in body["data"]], expected, rtol=1e-6)
    assert {entry["num_classes"] for entry in body["data"]} == {len(classifier.space)}


def test_one_text_is_a_list_of_one(make: Callable[..., Made]) -> None:
    endpoint = FakeEndpoint(it=make("bert"))
    (entry,) = (
        serve(endpoint, classification_form.router).post("/v1/classification", json={"input": "A"}).json()["data"]
    )
    assert entry["index"] == 0
    assert endpoint.asked == [["A"]]


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ({"input": ""}, "input: Text should not be empty"),
        ({"input": ["a", " "]}, "input[1]: Text should not be empty"),
        ({"input": []}, "input: List should have at least 1 item after validation, not 0"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input: List should have at most 1024 items after validation, not 1025"),
        ({"input": "x" * (MAX_CHARACTERS + 1)}, "input: String should have at most 200000 characters"),
        ({"input": 3}, "input: Input should be a text or a list of inputs"),
        ({"input": [3]}, "input[0]: Input should be a text, a pair [text, text_pair] or a list of chat messages"),
        ({"data_format": "percent"}, "data_format: Input should be 'probs' or 'logits'"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refusals_name_the_field(field: dict[str, object], line: str) -> None:
    http = serve(FakeEndpoint(), classification_form.router)
    assert message(http.post("/v1/classification", json={"input": "a"} | field)) == line
