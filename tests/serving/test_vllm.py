"""vLLM's route: what its ClassificationRequest may hold, and the form of its ClassificationResponse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_endpoint import FakeEndpoint, message, serve
from pydantic import BaseModel, ConfigDict
from tiny import TEXTS, Made

from rayclf.serving.protocols import vllm


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class UsageInfo(Strict):  # vllm/entrypoints/openai/engine/protocol.py
    prompt_tokens: int = 0
    total_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: dict[str, Any] | None = None


class Data(Strict):  # vllm/entrypoints/pooling/classify/protocol.py
    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class ClassificationResponse(Strict):
    id: str
    object: str
    created: int
    model: str
    data: list[Data]
    usage: UsageInfo


@pytest.fixture(scope="module")
def endpoint(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert"), other=make("bert"))


def test_the_answer_is_vllms(endpoint: FakeEndpoint) -> None:
    # What vLLM's own clients send; the last four change no answer.
    asked = {"model": "it", "input": TEXTS, "user": "u", "priority": 0, "request_id": "r", "cache_salt": "s"}
    response = serve(endpoint, vllm.router).post("/classify", json=asked)
    answer = ClassificationResponse.model_validate_json(response.content)
    classifier = endpoint.classifiers["it"]
    assert [data.label for data in answer.data] == [one.label for one in classifier.predict(TEXTS)]
    np.testing.assert_allclose([data.probs for data in answer.data], classifier.probabilities(TEXTS), rtol=1e-6)
    assert [data.index for data in answer.data] == list(range(len(TEXTS)))
    assert answer.data[0].num_classes == 3
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, classifier.encode(TEXTS)))


@pytest.mark.parametrize(
    ("fields", "raw"),
    [
        ({"use_activation": False}, True),
        ({"use_activation": True}, False),
        ({"activation": False}, True),
        ({"softmax": False}, True),
        ({"use_activation": True, "softmax": False}, False),
        ({"use_activation": None}, False),
    ],
    ids=str,
)
def test_without_activation_probs_are_logits(endpoint: FakeEndpoint, fields: dict[str, Any], raw: bool) -> None:
    body = serve(endpoint, vllm.router).post("/classify", json={"input": TEXTS} | fields).json()
    classifier = endpoint.classifiers["it"]
    expected = classifier.logits(TEXTS) if raw else classifier.probabilities(TEXTS)
    np.testing.assert_allclose([data["probs"] for data in body["data"]], expected, rtol=1e-6)


def test_chat_messages_are_one_input(endpoint: FakeEndpoint) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    response = serve(endpoint, vllm.router).post("/classify", json={"messages": messages})
    assert endpoint.asked[-1] == [messages]
    assert "neither pairs nor chat messages" in message(response)


def test_lengths(endpoint: FakeEndpoint) -> None:
    http = serve(endpoint, vllm.router)
    long = {"input": "energy " * 200}
    assert http.post("/classify", json=long).json()["usage"]["prompt_tokens"] == 64
    for fields in ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": 64}, {"truncation_side": "right"}):
        assert http.post("/classify", json=long | fields).status_code == 200
    assert message(http.post("/classify", json=long | {"truncation_side": "left"})) == "too long"
    assert http.post("/classify", json={"input": "a", "truncation_side": "left"}).status_code == 200
    refused = http.post("/classify", json=long | {"truncate_prompt_tokens": 63})
    assert message(refused) == "truncate_prompt_tokens: should be -1, or at least 64, to which this model cuts texts"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ({}, "body: give either input or messages"),
        ({"input": "a", "messages": [{"role": "user"}]}, "body: give either input or messages"),
        ({"input": [1]}, "input[0]: Input should be a text, a pair [text, text_pair] or a list of chat messages"),
        ({"messages": [{"content": "a"}]}, "messages[0].role: Field required"),
        ({"input": "a", "add_special_tokens": False}, "add_special_tokens: Input should be True"),
        (
            {"input": "a", "truncate_prompt_tokens": -2},
            "truncate_prompt_tokens: Input should be greater than or equal to -1",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refusals_name_the_field(endpoint: FakeEndpoint, body: dict[str, Any], line: str) -> None:
    assert message(serve(endpoint, vllm.router).post("/classify", json=body)) == line


def test_a_model_by_name(endpoint: FakeEndpoint) -> None:
    http = serve(endpoint, vllm.router)
    assert http.post("/classify", json={"input": "a", "model": "other"}).json()["model"] == "other"
    assert message(http.post("/classify", json={"input": "a", "model": "none"}), 404) == "no model none"
