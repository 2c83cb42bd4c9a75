"""What no client should send is refused as an error of the client, and leaves the server as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from mutations import VALID, mutate
from tiny import make_classifier, write_backbone

from rayclf.serving.guarded import Guarded
from rayclf.serving.http import make_api
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import digest_of
from rayclf.serving.limits import Limits
from rayclf.serving.local import LocalModels
from rayclf.serving.metrics import Metrics

KEY = "a-key-that-is-right"
REFUSED = {400, 404, 413, 415, 422}
GOOD = {"inputs": ["Which organelle makes ATP?"]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The whole application in front of a real classifier, one key asked for; bodies of up to 100,000 bytes."""
    folder = tmp_path_factory.mktemp("abuse")
    artifact = make_classifier(write_backbone(folder / "bert", "bert")).save(folder / "m")
    limits = Limits(max_body_bytes=100_000)  # type: ignore[call-arg]
    metrics = Metrics()
    local = LocalModels({"m": str(Path(artifact))}, settings={"runtime": "torch"}, report=metrics.batch)
    app = make_api(Guarded(local, limits, None, metrics), Keyring(None, digest_of(KEY)), limits, metrics)
    with TestClient(app, headers={"x-api-key": KEY}, raise_server_exceptions=False) as made:
        assert made.portal is not None
        made.portal.call(local.start)
        yield made
        made.portal.call(local.close)


@pytest.fixture(autouse=True)
def _as_before(client: TestClient) -> Iterator[None]:
    """After each test the server is healthy and says of the same text what it said before."""
    before = client.post("/v1/classify", json=GOOD).json()
    yield
    assert client.get("/health").json() == {"status": "ok"}
    assert client.post("/v1/classify", json=GOOD).json() == before


@pytest.mark.parametrize("route", VALID)
def test_valid_bodies_are_answered(client: TestClient, route: str) -> None:
    for body in VALID[route]:
        answer = client.post(route, json=body)
        assert answer.status_code == (422 if "messages" in body else 200), answer.text  # it reads no chat


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bodies_are_answered_or_refused(client: TestClient, seed: int) -> None:
    chance, seen = random.Random(seed), set()
    for _ in range(150):
        route, body = mutate(chance)
        answer = client.post(route, content=body, headers={"content-type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in REFUSED | {200}, (route, body[:300], answer.text)
        if answer.status_code != 200:
            error = answer.json()["error"]
            assert set(error) == {"code", "message", "request_id"}
            assert len(error["message"]) <= 501
            assert "\n" not in error["message"]
    assert {200, 400, 422} <= seen  # the mutations reach beyond the parser


def test_bodies_that_are_too_large_are_refused(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"inputs": ["'
        for _ in range(300):
            yield b"a" * 1000

    for body in (b"[" * 100_001, endless()):
        answer = client.post("/v1/classify", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"


@pytest.mark.parametrize(
    "name",
    ["content-type", "content-length", "x-request-id", "accept", "content-encoding", "expect", "range", "cookie"],
)
def test_odd_headers_are_no_errors_of_the_server(client: TestClient, name: str) -> None:
    for value in ("", "\xff\xfe", "a" * 5000, "-1", "0", "application/json; charset=utf-16", "gzip", "1e3", "9" * 40):
        headers = {"content-type": "application/json", name: value.encode("latin-1")}
        answer = client.post("/v1/classify", content=b'{"inputs": ["energy"]}', headers=headers)
        assert answer.status_code in REFUSED | {200}, (name, value)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
def test_wrong_methods_are_refused(client: TestClient, method: str) -> None:
    for route in VALID:
        assert client.request(method, route).status_code == 405


@pytest.mark.parametrize("path", ["/v1/model?model=../../etc/passwd", "/v2/models/%2e%2e%2f/infer", "/v2/models/a%00b"])
def test_names_that_lead_out_are_no_models(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 405)


def test_wrong_keys_are_all_refused_with_the_same_words(client: TestClient) -> None:
    chance, messages = random.Random(1), set()
    near = (KEY[:-1], KEY + "x", KEY.upper(), "", " ", "\x7f", "é".encode())
    for number in range(200):
        wrong = chance.choice((*near, chance.randbytes(20).hex()))
        headers = {"x-api-key": wrong} if number % 2 else {"authorization": b"Bearer " + _bytes(wrong), "x-api-key": ""}
        answer = client.post("/v1/classify", json=GOOD, headers=headers)
        assert answer.status_code == 401
        messages.add(answer.json()["error"]["message"])
    assert len(messages) == 1


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
