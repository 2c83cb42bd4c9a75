"""JSON bodies: all that is JSON is read as Python reads it, and what would break later code is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.serving.api_errors import ApiError
from rayclf.serving.json_body import MAX_DEPTH, json_answer, parse_json
from rayclf.serving.protocol import Result

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_json_is_read(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary() | st.text(alphabet='[]{}",:\\ud8319 eNaI', max_size=40).map(str.encode))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        value = parse_json(body)
    except ApiError as error:
        assert error.status == 400
        assert error.message.startswith("body: ")
    else:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no half of a pair, no NaN


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a": 1', "body: not JSON at line 1 column 8: Expecting ',' delimiter"),
        (b'{"a":\n tru}', "body: not JSON at line 2 column 2: Expecting value"),
        (b"\xff", "body: not UTF-8 at byte 0"),
        (b"[NaN]", "body: not JSON: NaN is not a number in JSON"),
        (b"[-Infinity]", "body: not JSON: -Infinity is not a number in JSON"),
        (b"1" * 5000, "body: not JSON: Exceeds the limit"),
        (b"[" * 100_000, f"body: nested more than {MAX_DEPTH} deep"),
        (b'{"a":' * 100_000, f"body: nested more than {MAX_DEPTH} deep"),
        (b'["\\ud83d"]', "body: a text holds half a surrogate pair"),
        (b'{"\\uDC00": 1}', "body: a text holds half a surrogate pair"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert caught.value.status == 400
    assert caught.value.message.startswith(message)


def test_depth() -> None:
    nested = b'{"a": ' * (MAX_DEPTH // 2) + b"[" * (MAX_DEPTH // 2) + b"]" * (MAX_DEPTH // 2) + b"}" * (MAX_DEPTH // 2)
    parse_json(nested)
    parse_json(b"[" + b",".join([b"[]"] * 5000) + b"]")  # wide is not deep
    with pytest.raises(ApiError, match="nested"):
        parse_json(b"[" + nested + b"]")


def test_a_pair_and_a_byte_order_mark_are_fine() -> None:
    assert parse_json(b'\xef\xbb\xbf["\\ud83d\\ude00"]') == ["\U0001f600"]


def test_an_answer_is_written_without_what_is_none() -> None:
    result = Result(label="é", score=0.5, labels=[], probabilities={"é": 0.5})
    answer = json_answer(result)
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {"label": "é", "score": 0.5, "labels": [], "probabilities": {"é": 0.5}}
