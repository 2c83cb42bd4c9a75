"""Requests that were lost with a process: refused so that clients send them again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayclf import cluster
from rayclf.serving.api_errors import Message, Receive, Scope, Send
from rayclf.serving.lost import Lost, middlewares


def run(app: Any, scope: Scope) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Lost(app)(scope, receive, send))
    return sent


def test_a_request_without_an_answer_is_to_be_sent_again() -> None:
    async def dies(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    start, body = run(dies, {"type": "http", "path": "/", "headers": [(b"x-request-id", b"mine")]})
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"], headers[b"x-request-id"]) == (503, b"1", b"mine")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert b'"code": "lost"' in body["body"]
    assert b'"request_id": "mine"' in body["body"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_all_else_is_left_alone(kind: str) -> None:
    told = [{"type": "http.response.start", "status": 500, "headers": []}, {"type": "http.response.body", "body": b"x"}]

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        for message in told:
            await send(message)

    assert run(answers, {"type": kind, "path": "/", "headers": []}) == told


def test_what_is_no_request_gets_no_answer() -> None:
    async def ends(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    assert run(ends, {"type": "lifespan"}) == []


def test_serve_finds_it() -> None:
    from ray.serve._private.http_util import validate_http_proxy_callback_return

    path = f"{middlewares.__module__}:{middlewares.__name__}"
    assert cluster._SERVE["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == path
    validate_http_proxy_callback_return(middlewares())
