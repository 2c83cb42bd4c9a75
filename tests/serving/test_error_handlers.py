"""Every error of every route has the one shape, and none tells more than it should."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from ray.exceptions import RayTaskError

from rayclf.errors import ArtifactError, DataError, LabelError
from rayclf.serving import error_handlers, headers
from rayclf.serving.api_errors import ApiError, rate_limited, unavailable
from rayclf.serving.error_handlers import RESPONSES
from rayclf.serving.protocol import ClassifyRequest

SECRET = "a text of a user"


class BackPressure(Exception):
    """What another library raises."""


def of_another_process(error: Exception) -> Exception:
    """As Ray raises it here."""
    return RayTaskError("classify", "Traceback of the replica", error).as_instanceof_cause()


RAISED: dict[str, Exception] = {
    "api": rate_limited("too many", 2.5),
    "remote-api": of_another_process(rate_limited("too many", 2.5)),
    "data": DataError("row 3: no text"),
    "remote-data": of_another_process(DataError("row 3: no text")),
    "label": LabelError("no label 'x'"),
    "artifact": ArtifactError("/secret/place: damaged"),
    "unknown": RuntimeError(SECRET),
    "remote-unknown": of_another_process(RuntimeError(SECRET)),
    "recursion": RecursionError(SECRET),
    "pressure": BackPressure(SECRET),
    "http": HTTPException(409, "busy"),
    "odd": HTTPException(499, "gone"),
}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    error_handlers.install(app, {BackPressure: lambda _: unavailable("overloaded", 1, "overloaded")})
    headers.install(app)

    @app.post("/classify")
    async def classify(request: ClassifyRequest) -> int:
        return len(request.inputs)

    @app.get("/raise/{name}")
    async def raise_(name: str) -> None:
        raise RAISED[name]

    @app.get("/number/{number}")
    async def number(number: int) -> int:
        return number

    @app.get("/broken")
    async def broken() -> StreamingResponse:
        async def parts() -> Any:
            yield b"a part"
            raise RuntimeError(SECRET)

        return StreamingResponse(parts())

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def shaped(answer: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message of an error in the shape."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json().values()
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in error["message"]
    return answer.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("api", (429, "rate_limited", "too many")),
        ("remote-api", (429, "rate_limited", "too many")),
        ("data", (422, "invalid", "row 3: no text")),
        ("remote-data", (422, "invalid", "row 3: no text")),
        ("label", (422, "invalid", "no label 'x'")),
        ("pressure", (503, "overloaded", "overloaded")),
        ("http", (409, "error", "busy")),
        ("odd", (499, "error", "gone")),
    ],
)
def test_what_is_raised(client: TestClient, name: str, expected: tuple[int, str, str]) -> None:
    answer = client.get(f"/raise/{name}")
    assert shaped(answer) == expected
    assert answer.headers.get("retry-after") == {429: "3", 503: "1"}.get(expected[0])


@pytest.mark.parametrize("name", ["unknown", "remote-unknown", "recursion", "artifact"])
def test_what_is_wrong_here_is_told_to_the_log_without_texts(
    client: TestClient, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.get(f"/raise/{name}", headers={"x-request-id": "find-me"})
    status, code, message = shaped(answer)
    assert (status, code) == (500, "internal_error")
    assert "secret" not in message
    assert "place" not in message
    (record,) = [record for record in caplog.records if record.name == "rayclf.serving"]
    assert record.getMessage().startswith("request find-me: ")
    assert SECRET not in caplog.text
    assert (": /secret/place: damaged" in caplog.text) == (name == "artifact")


def test_an_answer_that_breaks_off(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.get("/broken")
    assert answer.text == "a part"
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text


JSON = {"content-type": "application/json"}
NOT_JSON = (
    415,
    "unsupported_media_type",
    "body: not said to be JSON; send Content-Type: application/json",
)


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'{"inputs": ["a", ""]}', JSON, (422, "invalid", "inputs[1]: Text should not be empty")),
        (b'{"inputs": ["a"], "x": 1}', JSON, (422, "invalid", "x: Extra inputs are not permitted")),
        (b'{"inputs": ', JSON, (400, "bad_request", "body: not JSON at line 1 column 12: Expecting value")),
        (b"[" * 9999, JSON, (400, "bad_request", "body: nested more than 32 deep")),
        (b"\xff", JSON, (400, "bad_request", "body: not UTF-8 at byte 0")),
        (b"", JSON, (422, "invalid", "body: Field required")),
        (b'{"inputs": ["a"]}', {}, NOT_JSON),
        (b"inputs=a", {"content-type": "application/x-www-form-urlencoded"}, NOT_JSON),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_wrong_bodies(client: TestClient, body: bytes, headers: dict[str, str], expected: tuple[int, str, str]) -> None:
    assert shaped(client.post("/classify", content=body, headers=headers)) == expected


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/Vnd.x+JSON"])
def test_right_bodies(client: TestClient, kind: str) -> None:
    answer = client.post("/classify", content=b'{"inputs": ["a", "b"]}', headers={"content-type": kind})
    assert (answer.status_code, answer.json()) == (200, 2)


def test_a_long_name_of_a_field_is_cut(client: TestClient) -> None:
    _, _, message = shaped(client.post("/classify", json={"inputs": ["a"], "x" * 10_000: 1}))
    assert len(message) == 501


def test_routes_and_methods(client: TestClient) -> None:
    assert shaped(client.get("/nowhere")) == (404, "not_found", "/nowhere: no such route")
    wrong = client.get("/classify")
    assert shaped(wrong) == (405, "method_not_allowed", "/classify: wrong method; this route takes POST")
    assert wrong.headers["allow"] == "POST"
    assert shaped(client.get("/number/x"))[:2] == (422, "invalid")


def test_the_schema_shows_the_shape(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    responses = schema["paths"]["/classify"]["post"]["responses"]
    assert set(map(str, RESPONSES)) <= set(responses)
    shape = responses["422"]["content"]["application/json"]["schema"]
    assert shape["properties"]["error"]["required"] == ["code", "message", "request_id"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]


def test_a_client_that_is_gone_is_not_answered() -> None:
    import asyncio

    app = FastAPI()
    error_handlers.install(app)

    @app.post("/classify")
    async def classify(request: ClassifyRequest) -> None:
        raise AssertionError("not reached")

    sent: list[Any] = []

    async def call() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/classify", "query_string": b"", "root_path": "",
            "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        await app(scope, receive, send)

    asyncio.run(call())
    assert sent == []


def test_an_api_error_is_no_other_error() -> None:
    assert error_handlers.from_exception(error := ApiError(404, "not_found", "m"), "id") is error
