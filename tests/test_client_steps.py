"""What the clients decide, without a network or a clock."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf import client_steps
from rayclf.client import Client
from rayclf.client_steps import ClientError, Questions, Retry, Steps
from rayclf.errors import UserError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(steps: Steps[Any], outcomes: Sequence[Any], clock: Clock | None = None) -> tuple[Any, list[Any]]:
    """The result, or the error, of steps whose requests have these outcomes; and every step."""
    left, taken, outcome = list(outcomes), list[Any](), None
    try:
        while True:
            taken.append(steps.send(outcome))
            outcome = left.pop(0) if isinstance(taken[-1], httpx.Request) else None
            if isinstance(outcome, httpx.Response):
                outcome.request = taken[-1]
            if clock and isinstance(taken[-1], float):
                clock.now += taken[-1]
    except StopIteration as end:
        result = end.value
    except ClientError as error:
        result = error
    assert not left
    return result, taken


def longest(low: float, high: float) -> float:
    return high


GET = httpx.Request("GET", "http://here/x")
OK = httpx.Response(200)


def ask(*outcomes: Any, timeout: float = 120.0, retries: int = 8) -> tuple[Any, list[float]]:
    clock = Clock()
    result, taken = drive(Retry(timeout, retries, clock, longest).ask(GET), outcomes, clock)
    return result, [step for step in taken if isinstance(step, float)]


def refused(status: int, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = {"error": {"code": "a_code", "message": "said so", "request_id": "1"}}
    return httpx.Response(status, headers=named, json=body)


@pytest.mark.parametrize(
    "outcome",
    [
        *map(refused, (429, 502, 503, 504)),
        httpx.Response(500, text="Internal Server Error"),  # a proxy's, of a request whose replica went away
        httpx.ConnectError("x"),
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError("x"),
    ],
    ids=str,
)
def test_tried_again(outcome: Any) -> None:
    assert ask(outcome, outcome, OK) == (OK, [0.25, 0.5])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 408, 413, 422, 500, 301])
def test_not_tried_again(status: int) -> None:
    outcome = refused(status)
    assert ask(outcome) == (outcome, [])


@pytest.mark.parametrize(
    "outcome", [httpx.UnsupportedProtocol("x"), httpx.LocalProtocolError("x"), httpx.DecodingError("x")]
)
def test_what_no_attempt_can_mend(outcome: Any) -> None:
    error, waits = ask(outcome)
    assert (str(error), waits) == ("GET http://here/x: x", [])


def test_waits_double_up_to_ten_seconds() -> None:
    error, waits = ask(*[httpx.ReadError("")] * 9)
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    assert str(error) == "GET http://here/x: ReadError (attempts: 9, timeout 120 s)"


def test_retry_after_is_waited_for() -> None:
    assert ask(refused(503, retry_after="7"), OK) == (OK, [7.25])
    assert ask(refused(503, retry_after="Mon, 01 Jan 2029 00:00:00 GMT"), OK) == (OK, [0.25])


def test_no_wait_beyond_the_deadline() -> None:
    error, waits = ask(refused(503, retry_after="3600"))
    assert (error.status, error.code, waits) == (503, "a_code", [])
    assert str(error) == "GET http://here/x: 503 said so (attempts: 1, timeout 120 s)"
    error, waits = ask(*[httpx.ReadError("")] * 3, timeout=1.0)
    assert waits == [0.25, 0.5]


def test_each_attempt_has_the_time_that_is_left() -> None:
    clock = Clock()
    given = []
    steps = Retry(10.0, 8, clock, longest).ask(GET)
    for outcome in (None, refused(503), None, refused(503)):
        step = steps.send(outcome)
        if isinstance(step, float):
            clock.now += step + 3
        else:
            given.append(step.extensions["timeout"]["read"])
    assert given == [10.0, pytest.approx(6.75)]


@given(st.integers(0, 20))
def test_a_half_of_each_wait_is_left_to_chance(attempts: int) -> None:
    _, taken = drive(Retry(1e9, attempts + 1).ask(GET), [*[httpx.ReadError("")] * attempts, OK])
    waits = [step for step in taken if isinstance(step, float)]
    whole = [min(10, 0.25 * 2**number) for number in range(attempts)]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, whole, strict=True))


def test_the_attempts_outlast_a_proxy_that_died() -> None:
    """Ray Serve finds out after three looks, of 10 s each where nobody said otherwise."""
    with Client("http://here") as client:
        retry = replace(client._questions.retry, jitter=lambda low, high: low)
    _, taken = drive(retry.ask(GET), [*[httpx.ConnectError("")] * retry.retries, OK])
    assert sum(step for step in taken if isinstance(step, float)) > 25


# --- questions --------------------------------------------------------------------------------------------------------


def questions(url: str = "http://here/base/", **settings: Any) -> Questions:
    return Questions(url, **({"api_key": None, "timeout": 10.0, "retries": 2} | settings))


def results(size: int) -> httpx.Response:
    one = {"label": "a", "score": 0.5, "labels": [], "probabilities": {"a": 0.5}}
    return httpx.Response(200, json={"results": [one] * size})


def test_the_body() -> None:
    texts = ['é\n"', ("a", "b"), [{"role": "user", "content": "c"}]]
    found, (request,) = drive(questions().classify_steps(texts, "it", 2), [results(3)])
    assert len(found) == 3
    assert (request.method, str(request.url)) == ("POST", "http://here/base/v1/classify")
    assert json.loads(request.content) == {
        "model": "it",
        "top_k": 2,
        "inputs": ['é\n"', ["a", "b"], [{"role": "user", "content": "c"}]],
    }


def test_nothing_to_classify() -> None:
    assert drive(questions().classify_steps([], None, None), []) == ([], [])


@given(st.lists(st.text(max_size=20), max_size=30), st.integers(1, 5), st.integers(1, 40))
def test_parts_hold_all_texts_under_both_limits(texts: list[str], most: int, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_steps, "MAX_INPUTS", most)
        patch.setattr(client_steps, "MAX_BYTES", size)
        parts = list(client_steps._parts(texts))
    assert [json.loads(item) for _, items in parts for item in items] == texts
    starts = [start for start, _ in parts]
    assert starts == [sum(len(items) for _, items in parts[:place]) for place in range(len(parts))]
    for _, items in parts:
        assert 1 <= len(items) <= most
        assert len(items) == 1 or len(b",".join(items)) <= size


def test_a_part_too_large_for_the_endpoint_is_halved() -> None:
    too_much = httpx.Response(422, json={"error": {"code": "answer_too_large", "message": "1 is enough"}})
    outcomes = [refused(413), results(2), too_much, results(1), results(2)]
    found, taken = drive(questions().classify_steps(["1", "2", "3", "4", "5"], None, None), outcomes)
    assert [json.loads(request.content)["inputs"] for request in taken] == [
        ["1", "2", "3", "4", "5"],
        ["1", "2"],
        ["3", "4", "5"],
        ["3"],
        ["4", "5"],
    ]
    assert len(found) == 5
    error, _ = drive(questions().classify_steps(["1"], None, None), [refused(413)])
    assert error.status == 413


def test_an_error_tells_which_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_steps, "MAX_INPUTS", 2)
    error, _ = drive(questions().classify_steps(["1", "2", "3"], None, None), [results(2), refused(422)])
    assert str(error) == "texts 3 to 3 of 3: POST http://here/base/v1/classify: 422 said so"


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ("a", "texts must be a list, not one string; put it in a list"),
        (["a", "\ud800"], "texts[1]: not valid Unicode"),
        ([object()], "texts[0]: not a text, a pair or messages"),
        ([float("nan")], "texts[0]: not a text, a pair or messages"),
    ],
    ids=["string", "surrogate", "object", "nan"],
)
def test_what_cannot_be_sent(texts: Any, line: str) -> None:
    error, _ = drive(questions().classify_steps(texts, None, None), [])
    assert str(error) == line


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"results": []}),
        httpx.Response(200, json={"results": [{"label": "a"}]}),
        httpx.Response(200, json={"results": [None]}),
        httpx.Response(200, json={"results": 1}),
    ],
    ids=lambda answer: answer.text[:30],
)
def test_another_server(answer: httpx.Response) -> None:
    error, _ = drive(questions().classify_steps(["a"], None, None), [answer])
    assert str(error).endswith("/v1/classify: answers, but not as rayclf does; is it the endpoint's address?")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error": "x"}', b'{"detail": "x"}', b"null"])
def test_an_error_that_is_not_an_endpoints(body: bytes) -> None:
    error, _ = drive(questions().models_steps(), [httpx.Response(404, content=body)])
    assert str(error) == "GET http://here/base/v1/models: 404 Not Found"


@pytest.mark.parametrize("outcome", [refused(503), refused(401), httpx.ConnectError("x")], ids=str)
def test_health_is_asked_once(outcome: Any) -> None:
    assert drive(questions().health_steps(), [outcome])[0] is False


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"url": "here:8000"}, "url here:8000: must be like http://127.0.0.1:8000"),
        ({"url": "ftp://here"}, "url ftp://here: must be like http://127.0.0.1:8000"),
        ({"url": "http://"}, "url http://: must be like http://127.0.0.1:8000"),
        ({"url": "http://here:x"}, "url http://here:x: Invalid port: 'x'"),
        ({"url": 3}, "url 3: "),
        ({"api_key": ""}, "api_key: is empty, or has characters that no key has, such as a line break"),
        ({"api_key": "secret\n"}, "api_key: is empty, or has characters that no key has, such as a line break"),
        ({"timeout": 0}, "timeout 0, retries 2: must be above 0 and at least 0"),
        ({"retries": -1}, "timeout 10.0, retries -1: must be above 0 and at least 0"),
    ],
    ids=str,
)
def test_wrong_settings(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ClientError) as caught:
        questions(**settings)
    assert str(caught.value).startswith(line)


def test_an_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ClientError("a", 503, "closed")))
    assert isinstance(error, UserError)
    assert (str(error), error.status, error.code) == ("a", 503, "closed")


def test_a_password_in_the_address_is_not_told() -> None:
    asked = questions("http://me:secret@here")
    asked.retry = replace(asked.retry, retries=0)
    error, _ = drive(asked.models_steps(), [httpx.ConnectError("x")])
    assert "secret" not in str(error)
