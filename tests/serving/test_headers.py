"""Ids, security headers and bounded bodies, by raw ASGI calls, through Starlette's client and a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from rayclf.serving import error_handlers, headers
from rayclf.serving.api_errors import ASGIApp, Message, Receive, Scope, Send
from rayclf.serving.headers import guard, page_policy
from rayclf.serving.limits import Limits

LIMITS = Limits(max_body_bytes=1000, body_timeout_s=0.2)
DISCONNECT = {"type": "http.disconnect"}


def part(body: bytes, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the size of the body; tells in the scope whether the client has gone."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            scope["gone"] = True
            break
        size += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"Content-Type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Call:
    """One request to an application: what it answered, and how many messages of the body it took."""

    def __init__(
        self, app: ASGIApp, messages: Sequence[Message] = (part(b""),), given: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self.scope: Scope = {"type": "http", "method": "POST", "path": "/", "headers": list(given)}
        self.sent: list[Message] = []
        self.taken = 0
        self.messages = iter(messages)
        asyncio.run(app(self.scope, self.receive, self.send))

    async def receive(self) -> Message:
        for message in self.messages:
            self.taken += 1
            return message
        await asyncio.sleep(60)  # a client that is silent
        return DISCONNECT

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        (start,) = [message for message in self.sent if message["type"] == "http.response.start"]
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        names = [name for name, _ in self.sent[0]["headers"]]
        assert len(set(names)) == len(names)
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


def test_the_headers_of_an_answer() -> None:
    call = Call(guard(echo, LIMITS), [part(b"ab", True), part(b"c")])
    assert (call.status, call.body) == (200, b"3")
    made = call.headers.pop("x-request-id")
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert call.scope["state"]["request_id"] == made
    assert {name: value for name, value in call.headers.items() if name != "x-request-id"} == {
        "content-type": "text/plain",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    }


@pytest.mark.parametrize("given", [b"abc-1.2:3", b"01J/x=+@", b"a" * 128])
def test_a_clients_id_is_kept(given: bytes) -> None:
    call = Call(guard(echo), given=[(b"X-Request-Id", given)])
    assert call.headers["x-request-id"] == call.scope["state"]["request_id"] == given.decode()


@given(st.binary(max_size=140))
def test_no_other_id_comes_through(value: bytes) -> None:
    call = Call(guard(echo), given=[(b"x-request-id", value)])
    assert re.fullmatch(r"[\w.:=+/@-]{1,128}", call.headers["x-request-id"], re.ASCII)


@pytest.mark.parametrize("value", [b"", b"a" * 129, b"a b", b"a\r\nx: y", b"<script>", b"\xe4"])
def test_an_id_that_could_harm_is_replaced(value: bytes) -> None:
    assert Call(guard(echo), given=[(b"x-request-id", value)]).headers["x-request-id"] != value.decode("latin-1")


def refusal(call: Call) -> tuple[int, str]:
    error = json.loads(call.body)["error"]
    assert error["request_id"] == call.headers["x-request-id"]
    assert call.headers["x-content-type-options"] == "nosniff"
    return call.status, error["code"]


def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    for size in (b"1001", b"9" * 5000):
        call = Call(guard(echo, LIMITS), [part(b"x" * 1001)], [(b"content-length", size)])
        assert refusal(call) == (413, "too_large")
        assert call.headers["connection"] == "close"
        assert call.taken == 0
        assert "gone" not in call.scope
    for size in (b"-1", b"x", b"1, 2", b""):
        assert refusal(Call(guard(echo, LIMITS), given=[(b"content-length", size)])) == (400, "bad_request")
    assert Call(guard(echo, LIMITS), [part(b"x" * 1000)], [(b"content-length", b"1000")]).status == 200


def test_a_body_of_unsaid_or_false_size_is_read_to_the_limit() -> None:
    parts = [part(b"x" * 100, True) for _ in range(100)]
    for given_headers in ([], [(b"content-length", b"5")]):
        call = Call(guard(echo, LIMITS), parts, given_headers)
        assert refusal(call) == (413, "too_large")
        assert call.taken == 11
        assert call.scope["gone"]


@given(st.lists(st.binary(max_size=400), min_size=1, max_size=6))
def test_the_limit_is_exact(bodies: list[bytes]) -> None:
    last = len(bodies) - 1
    call = Call(guard(echo, LIMITS), [part(body, place < last) for place, body in enumerate(bodies)])
    size = sum(map(len, bodies))
    assert call.status == (200 if size <= 1000 else 413)
    assert size > 1000 or call.body == str(size).encode()


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    call = Call(guard(echo, LIMITS), [part(b"x", True)])
    assert refusal(call) == (408, "timeout")
    assert call.headers["connection"] == "close"
    assert call.scope["gone"]


def test_a_client_that_goes_is_seen() -> None:
    call = Call(guard(echo, LIMITS), [part(b"x", True), DISCONNECT])
    assert call.scope["gone"]
    assert call.status == 200  # what the application does about it is its own affair


def test_waiting_for_a_client_to_go_has_no_time_limit() -> None:
    """Starlette asks so while it streams an answer."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "http.request"
        waiting = asyncio.ensure_future(receive())
        await asyncio.sleep(0.4)
        scope["waited"] = not waiting.done()
        waiting.cancel()
        await echo(scope, receive_nothing, send)

    async def receive_nothing() -> Message:
        return part(b"")

    call = Call(guard(slow, LIMITS))
    assert call.scope["waited"]
    assert call.status == 200


def test_other_than_http_goes_through() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    scope: Scope = {"type": "lifespan"}
    asyncio.run(guard(app)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [scope] == [{"type": "lifespan"}]


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    error_handlers.install(app)
    headers.install(app, LIMITS, {"/own": "default-src 'self'"})

    @app.post("/size")
    async def size(body: list[str]) -> int:
        return sum(map(len, body))

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d" % number
                await asyncio.sleep(0)

        return StreamingResponse(parts())

    @app.get("/page")
    @app.get("/own")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>hello</p>", headers={"Cache-Control": "max-age=60"})

    @app.post("/gone")
    async def gone(request: Request) -> bool:
        return await request.is_disconnected()

    return app


def test_around_fastapi(app: FastAPI) -> None:
    with TestClient(app) as client:
        assert client.post("/size", json=["ab", "c"]).json() == 3
        too_large = client.post("/size", json=["x" * 1000])
        assert (too_large.status_code, too_large.json()["error"]["code"]) == (413, "too_large")
        unsaid = client.post(
            "/size", content=iter([b"x" * 600, b"x" * 600]), headers={"content-type": "application/json"}
        )
        assert (unsaid.status_code, unsaid.json()["error"]["code"]) == (413, "too_large")
        assert client.get("/stream").text == "012"
        assert client.post("/gone").json() is False
        page = client.get("/page").headers
        assert page["content-security-policy"] == page_policy()
        assert page["cache-control"] == "max-age=60"
        assert client.get("/own").headers["content-security-policy"] == "default-src 'self'"
        docs = client.get("/docs")
        for address in re.findall(r'(?:src|href)="(https://[^/"]+)', docs.text):
            assert address in docs.headers["content-security-policy"]
        assert client.get("/nowhere").headers["x-content-type-options"] == "nosniff"


def test_a_page_allows_its_own_blocks_alone() -> None:
    script = "let a = 1;"
    policy = page_policy(script)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


@contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """The port of a real server."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # what comes before the server is ready waits
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def answered(port: int, head: bytes, chunk: bytes, most: int) -> tuple[bytes, int]:
    """The answer to a request whose body is ``chunk`` up to ``most`` times, and how many were sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        sent = 0
        answer = b""
        try:
            connection.sendall(head)
            while sent < most:
                connection.sendall(chunk)
                sent += 1
        except OSError:  # the server has closed the connection
            pass
        try:
            while data := connection.recv(65536):
                answer += data
        except OSError:
            pass
        return answer, sent


def test_a_server_reads_no_more_of_a_huge_body(app: FastAPI) -> None:
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = b"POST /size HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with served(app) as port:
        answer, sent = answered(port, head + b"transfer-encoding: chunked\r\n\r\n", chunk, 1600)  # 100 MB
        assert sent < 1600
        answer, sent = answered(port, head + b"content-length: 104857600\r\n\r\n", b"", 1)
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer, _ = answered(port, head + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nabcde\r\n", 1)  # and silence
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer
