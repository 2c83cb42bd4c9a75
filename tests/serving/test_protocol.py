"""The native protocol: what a request may hold, and one line for what it may not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rayclf.serving.protocol import MAX_CHARACTERS, ClassifyRequest, error_line, plain

CHAT = [{"role": "user", "content": "Hi", "name": "x"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]


def test_the_three_forms() -> None:
    request = ClassifyRequest(inputs=["a", ["b", "c"], CHAT])  # type: ignore[list-item]
    assert plain(request.inputs) == ["a", ("b", "c"), [CHAT[0], {"role": "assistant", "tool_calls": [{}]}]]


@pytest.mark.parametrize(
    ("inputs", "line"),
    [
        (["a", " \n"], "inputs[1]: Text should not be empty"),
        (["\x1c"], "inputs[0]: Text should not be empty"),
        (["x" * (MAX_CHARACTERS + 1)], f"inputs[0]: String should have at most {MAX_CHARACTERS} characters"),
        ([3], "inputs[0]: Input should be a text, a pair [text, text_pair] or a list of chat messages"),
        ([["a"]], "inputs[0][1]: Field required"),
        ([["a", ""]], "inputs[0][1]: Text should not be empty"),
        ([[{"content": "a"}]], "inputs[0][0].role: Field required"),
        ([[{"role": "user", "content": 3}]], "inputs[0][0].content: Input should be a valid string"),
        ("a", "inputs: Input should be a valid list"),
        ([], "inputs: List should have at least 1 item after validation, not 0"),
        (["", ""], "inputs[0]: Text should not be empty (and 1 more)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_told_on_one_line(inputs: Any, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ClassifyRequest.model_validate({"inputs": inputs})
    assert error_line(caught.value.errors()) == line


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("a\nb", "a b: Extra inputs are not permitted"),
        ("x" * 10_000, f"{'x' * 500}…: Extra inputs are not permitted"),
    ],
    ids=["line break", "long"],
)
def test_a_line_can_be_sent_whatever_the_field_is_called(field: str, line: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ClassifyRequest.model_validate({"inputs": ["a"], field: 1})
    assert error_line(caught.value.errors()) == line
