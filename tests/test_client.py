"""Both clients in front of the native routes, and the connection that is not there."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fake_endpoint import FakeEndpoint, serve
from fastapi import FastAPI
from tiny import TEXTS, Made

from rayclf import client_steps
from rayclf.client import AsyncClient, Classification, Client, ClientError
from rayclf.serving.protocols import native

Ask = Callable[[str, tuple[Any, ...]], Any]


@pytest.fixture(scope="module")
def endpoint(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert"), other=make("bert"))


@pytest.fixture(scope="module")
def app(endpoint: FakeEndpoint) -> FastAPI:
    app = serve(endpoint, native.router).app
    assert isinstance(app, FastAPI)
    app.add_api_route("/health", lambda: {"status": "ok"})
    return app


def answer_by(app: FastAPI, request: httpx.Request) -> httpx.Response:
    """What ``app`` answers to a request of the sync client."""

    async def send() -> httpx.Response:
        response = await httpx.ASGITransport(app).handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

    return asyncio.run(send())


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, app: FastAPI) -> Ask:
    """Call a method of a client of either kind."""

    async def ask_async(method: str, arguments: tuple[Any, ...]) -> Any:
        async with AsyncClient("http://here", transport=httpx.ASGITransport(app)) as client:
            return await getattr(client, method)(*arguments)

    def ask_sync(method: str, arguments: tuple[Any, ...]) -> Any:
        with Client("http://here/", transport=httpx.MockTransport(lambda sent: answer_by(app, sent))) as client:
            return getattr(client, method)(*arguments)

    if request.param == "async":
        return lambda method, arguments: asyncio.run(ask_async(method, arguments))
    return ask_sync


def test_the_answers_are_the_predictions(ask: Ask, endpoint: FakeEndpoint) -> None:
    found = ask("classify", (TEXTS,))
    for one, expected in zip(found, endpoint.classifiers["it"].predict(TEXTS), strict=True):
        assert (one.label, one.labels) == (expected.label, expected.labels)
        assert one.score == pytest.approx(expected.score)
        assert one.probabilities == pytest.approx(expected.probabilities)


class Slow(httpx.AsyncBaseTransport):
    """Answers after a while, and counts the requests that are under way."""

    def __init__(self, app: FastAPI) -> None:
        self.inner, self.now, self.most = httpx.ASGITransport(app), 0, 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.05)
        self.now -= 1
        return await self.inner.handle_async_request(request)


def test_calls_wait_for_their_turn_and_their_time_begins_then(app: FastAPI) -> None:
    slow = Slow(app)

    async def many() -> list[list[Classification]]:
        async with AsyncClient("http://here", timeout=1, concurrency=2, transport=slow) as client:
            return await asyncio.gather(*(client.classify(["a text"]) for _ in range(60)))

    assert len(asyncio.run(many())) == 60  # 1.5 s in all at the least
    assert slow.most == 2


def test_as_many_threads_ask_at_once_as_may(app: FastAPI) -> None:
    now, most, lock = 0, 0, threading.Lock()

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        response = answer_by(app, request)
        with lock:
            now -= 1
        return response

    with (
        Client("http://here", concurrency=2, transport=httpx.MockTransport(answer)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        assert len(list(pool.map(client.classify, [["a text"]] * 16))) == 16
    assert most <= 2


def test_at_least_one_call_may_be_under_way() -> None:
    with pytest.raises(ClientError, match="concurrency 0: must be at least 1"):
        Client("http://here", concurrency=0)


def test_a_long_list_goes_in_several_requests(
    ask: Ask, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_steps, "MAX_INPUTS", 3)
    whole = ask("classify", (TEXTS,))
    assert [len(asked) for asked in endpoint.asked[-3:]] == [3, 3, 2]
    assert [one.label for one in whole] == [one.label for one in endpoint.classifiers["it"].predict(TEXTS)]


def test_a_model_and_top_k(ask: Ask, endpoint: FakeEndpoint) -> None:
    (found,) = ask("classify", (["A cell!"], "other", 1))
    (expected,) = endpoint.classifiers["other"].predict(["A cell!"])
    assert found == Classification(
        expected.label, pytest.approx(expected.score), expected.labels, {expected.label: pytest.approx(expected.score)}
    )
    with pytest.raises(ClientError, match="POST http://here/v1/classify: 404 no model none$") as caught:
        ask("classify", (["A cell!"], "none"))
    assert (caught.value.status, caught.value.code) == (404, "not_found")


def test_models_and_health(ask: Ask) -> None:
    assert [(model["id"], model["ready"]) for model in ask("models", ())] == [("it", True), ("other", True)]
    assert ask("health", ()) is True


def test_waits_are_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = list[float]()
    monkeypatch.setattr("rayclf.client.time.sleep", slept.append)
    replies = iter([httpx.Response(503), httpx.Response(200, json={"data": []})])
    assert Client("http://here", transport=httpx.MockTransport(lambda _: next(replies))).models() == []
    assert len(slept) == 1

    async def note(seconds: float) -> None:
        slept.append(seconds)

    async def ask_async() -> list[dict[str, Any]]:
        answers = iter([httpx.Response(503), httpx.Response(200, json={"data": []})])
        async with AsyncClient("http://here", transport=httpx.MockTransport(lambda _: next(answers))) as client:
            monkeypatch.setattr("rayclf.client.asyncio.sleep", note)
            return await client.models()

    assert asyncio.run(ask_async()) == []
    assert len(slept) == 2


def test_nobody_listens() -> None:
    with socket.socket() as taken:  # bound, not listening: connections to it are refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, retries=1) as client:
            with pytest.raises(ClientError, match=r"refused \(attempts: 2, timeout 120 s\)") as caught:
                client.classify(["a"])
            assert caught.value.status is None
            assert client.health() is False


def test_the_key_is_sent_and_never_told() -> None:
    seen = list[str]()

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(401, json={"error": {"code": "unauthorized", "message": "missing or wrong API key"}})

    with (
        Client("http://here", "rck_secret", transport=httpx.MockTransport(refuse)) as client,
        pytest.raises(ClientError, match="401 missing or wrong API key") as caught,
    ):
        client.classify(["a"])
    assert seen == ["Bearer rck_secret"]  # once: another attempt would not mend it
    assert "rck_secret" not in f"{caught.value!r} {client!r} {client.__dict__}"


def test_neither_the_client_nor_the_protocols_load_pytorch() -> None:
    modules = "rayclf.client, rayclf.serving.protocols.native, rayclf.serving.protocols.kserve"
    code = f"import sys, {modules}; print({{'torch', 'transformers', 'ray'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
