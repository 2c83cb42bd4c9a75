"""The one shape of errors, as values; the routes that give it are in test_error_handlers."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.serving import api_errors
from rayclf.serving.api_errors import ApiError, Message, Scope


@pytest.mark.parametrize(
    ("error", "status", "code", "headers"),
    [
        (api_errors.bad_request("m"), 400, "bad_request", {}),
        (api_errors.unauthorized(), 401, "unauthorized", {"WWW-Authenticate": "Bearer"}),
        (api_errors.forbidden("m"), 403, "forbidden", {}),
        (api_errors.not_found("m"), 404, "not_found", {}),
        (api_errors.too_large("m"), 413, "too_large", {"Connection": "close"}),
        (api_errors.unsupported_media_type(), 415, "unsupported_media_type", {}),
        (api_errors.invalid("m"), 422, "invalid", {}),
        (api_errors.rate_limited("m", 1.2), 429, "rate_limited", {"Retry-After": "2"}),
        (api_errors.unavailable("m", 0), 503, "unavailable", {"Retry-After": "1"}),
        (api_errors.unavailable("m", 60, "closed"), 503, "closed", {"Retry-After": "60"}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_statuses(error: ApiError, status: int, code: str, headers: dict[str, str]) -> None:
    assert (error.status, error.code, error.headers) == (status, code, headers)


@given(st.text(max_size=700), st.text(st.characters(codec="ascii"), max_size=10))
def test_the_shape_holds_whatever_is_quoted(message: str, request_id: str) -> None:
    body = ApiError(422, "invalid", message).body(request_id)
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert len(error["message"]) <= 501
    assert len(error["message"].splitlines()) <= 1


def test_it_travels_between_processes() -> None:
    error = api_errors.unavailable("m", 3, "closed")
    again = pickle.loads(pickle.dumps(error))
    assert (again.status, again.code, again.message, again.headers) == (503, "closed", "m", {"Retry-After": "3"})


def test_an_error_sent_from_below_the_framework() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "state": {"request_id": "abc"}}
    asyncio.run(api_errors.send_error(api_errors.too_large("m"), scope, send))
    start, body = sent
    assert start["status"] == 413
    headers = dict(start["headers"])
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert json.loads(body["body"]) == {"error": {"code": "too_large", "message": "m", "request_id": "abc"}}


def test_a_request_without_an_id_gets_one_and_keeps_it() -> None:
    scope: Scope = {"type": "http"}
    assert api_errors.request_id(scope) == api_errors.request_id(scope) != ""


def test_it_is_light() -> None:
    """The command line's ``keys`` and the guards import it."""
    code = "import sys, rayclf.cli.keys, rayclf.serving.api_errors, rayclf.serving.headers; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "starlette", "ray", "torch", "filelock"} & set(loaded)
