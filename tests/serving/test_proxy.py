"""Ray Serve's proxies: bodies without end are cut off, requests that were lost with a process refused."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayclf import cluster
from rayclf.serving.api_errors import Message, Receive, Scope, Send
from rayclf.serving.limits import MOST_BODY_BYTES
from rayclf.serving.proxy import Lost, middlewares


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


def test_a_body_without_end_is_cut_off() -> None:
    """The application is like Serve's proxy: it takes what comes, as fast as it comes, and then waits for an answer."""
    taken, refused = 0, list[Message]()
    chunk = {"type": "http.request", "body": b"a" * 1_000_000, "more_body": True}

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def receive() -> Message:
        nonlocal taken
        taken += 1
        return chunk

    async def send(message: Message) -> None:
        refused.append(message)

    app: Any = reads
    for middleware in middlewares():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    asyncio.run(app({"type": "http", "path": "/", "headers": []}, receive, send))
    assert [message.get("status") for message in refused] == [413, None]
    assert taken * 1_000_000 == MOST_BODY_BYTES + 1_000_000


def test_serve_finds_it() -> None:
    from ray.serve._private.http_util import validate_http_proxy_callback_return

    path = f"{middlewares.__module__}:{middlewares.__name__}"
    assert cluster._SERVE["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"] == path
    validate_http_proxy_callback_return(middlewares())
