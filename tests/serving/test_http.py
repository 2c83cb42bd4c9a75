"""The whole application in front of real tiny classifiers and a store of keys, without Ray."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tiny import Made

from rayclf.labels import ProblemType
from rayclf.serving.access import open_log
from rayclf.serving.guarded import Guarded
from rayclf.serving.http import make_api
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import KeyStore
from rayclf.serving.limits import Limits
from rayclf.serving.local import LocalModels
from rayclf.serving.metrics import Metrics
from rayclf.serving.schedule import Schedule

TEXT = "A text that nobody but its sender shall read."
ASK = {"inputs": [TEXT]}
SHUT = Schedule.parse("Mon 08:00-09:00 UTC")
TUESDAY = datetime(2026, 3, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def paths(make: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    made = {"topics": make("bert"), "flags": make("bert", kind=ProblemType.MULTILABEL)}
    return {name: str(one.save(folder / name)) for name, one in made.items()}


@contextmanager
def serving(
    paths: dict[str, str], keyring: Keyring, log: logging.Logger | None = None, schedule: Schedule | None = None
) -> Iterator[TestClient]:
    metrics, limits = Metrics(), Limits(max_body_bytes=10_000)
    models = LocalModels(paths, report=metrics.batch)
    guarded = Guarded(models, limits, schedule, metrics, now=lambda: TUESDAY)
    with TestClient(make_api(guarded, keyring, limits, metrics, log)) as client:
        assert client.portal is not None
        client.portal.call(models.start)
        metrics.watch(lambda: models.batcher.counters, models.host.counters)  # type: ignore[union-attr]
        yield client
        client.portal.call(models.close)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keys by name: for all, for ``flags`` alone, for one request a minute; and the store's file."""
    store = KeyStore(tmp_path_factory.mktemp("keys") / "keys.json")
    made = {"all": store.create("all"), "flags": store.create("flags", ["flags"]), "slow": store.create("slow", rate=1)}
    revoked = store.create("revoked")
    store.revoke("revoked")
    return {name: token for name, (_, token) in made.items()} | {"revoked": revoked[1], "store": store.path}


@pytest.fixture(scope="module")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "access.jsonl"


@pytest.fixture(scope="module")
def http(paths: dict[str, str], tokens: dict[str, str], log_file: Path) -> Iterator[TestClient]:
    """A client of the application, which asks for keys and keeps a log."""
    log = open_log(str(log_file))
    assert log is not None
    with serving(paths, Keyring(KeyStore(tokens["store"])), log) as client:
        yield client
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def error(answer: Any, status: int, code: str) -> str:
    """The message of an error in the one shape, with the request's id."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    found = answer.json()["error"]
    assert set(found) == {"code", "message", "request_id"}
    assert (found["code"], found["request_id"]) == (code, answer.headers["x-request-id"])
    assert TEXT not in answer.text
    return str(found["message"])


def test_every_protocol_gives_the_same_label(http: TestClient, tokens: dict[str, str]) -> None:
    http.headers.update(bearer(tokens["all"]))
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    native = http.post("/v1/classify", json=ASK).json()["results"][0]["label"]
    assert http.post("/v1/classification", json={"input": TEXT}).json()["data"][0]["label"] == native
    assert http.post("/classify", json={"input": TEXT}).json()["data"][0]["label"] == native
    assert http.post("/predict", json={"inputs": TEXT}).json()[0]["label"] == native
    infer = http.post("/v2/models/topics/infer", json={"inputs": [tensor]}).json()
    assert infer["outputs"][0]["data"] == [native]
    http.headers.pop("authorization")


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"authorization": "Basic a:b"}], ids=str
)
def test_no_or_a_wrong_key(http: TestClient, given: dict[str, str]) -> None:
    for path in ("/v1/models", "/v1/model", "/metrics", "/v2/models/topics"):
        answer = http.get(path, headers=given)
        assert "API key" in error(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    error(http.post("/v1/classify", json=ASK, headers=given), 401, "unauthorized")


@pytest.mark.parametrize(
    "path", ["/v1/classify", "/v1/classification", "/classify", "/predict", "/v2/models/topics/infer"]
)
def test_a_wrong_key_is_refused_before_the_body_is_read(http: TestClient, path: str) -> None:
    """Its body, which may be long or slow to come, and is not JSON here, costs nothing."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"x-api-key", b"wrong"), (b"content-type", b"application/json")]}
    asyncio.run(http.app(scope, receive, send))  # type: ignore[arg-type, func-returns-value]
    assert sent[0]["status"] == 401


def test_a_revoked_key(http: TestClient, tokens: dict[str, str]) -> None:
    error(http.get("/v1/models", headers=bearer(tokens["revoked"])), 401, "unauthorized")


def test_what_needs_no_key(http: TestClient) -> None:
    for path in ("/health", "/v2/health/live", "/v2/health/ready", "/", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200


def test_a_key_has_its_models(http: TestClient, tokens: dict[str, str]) -> None:
    flags = {"x-api-key": tokens["flags"]}
    assert http.post("/v1/classify", json={**ASK, "model": "flags"}, headers=flags).status_code == 200
    assert [one["id"] for one in http.get("/v1/models", headers=flags).json()["data"]] == ["flags"]
    for body in ({**ASK, "model": "topics"}, ASK, {**ASK, "model": "none"}):
        error(http.post("/v1/classify", json=body, headers=flags), 403, "forbidden")


def test_a_rate(http: TestClient, tokens: dict[str, str]) -> None:
    """One a minute; a key is asked for before and after the body, and counted once."""
    assert http.post("/v1/classify", json=ASK, headers=bearer(tokens["slow"])).status_code == 200
    answer = http.get("/v1/models", headers=bearer(tokens["slow"]))
    error(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_refusals_have_one_shape(http: TestClient, tokens: dict[str, str]) -> None:
    whole = bearer(tokens["all"])
    error(http.post("/v1/classify", json={**ASK, "model": "none"}, headers=whole), 404, "not_found")
    error(http.get("/nowhere", headers=whole), 404, "not_found")
    error(http.get("/v1/classify", headers=whole), 405, "method_not_allowed")
    assert "inputs" in error(http.post("/v1/classify", json={"inputs": []}, headers=whole), 422, "invalid")
    body = error(http.post("/v1/classify", json={"inputs": ["a" * 20_000]}, headers=whole), 413, "too_large")
    assert "10000 bytes" in body
    json_type = whole | {"content-type": "application/json"}
    error(http.post("/v1/classify", content="{", headers=json_type), 400, "bad_request")
    error(http.post("/v1/classify", content="{}", headers=whole), 415, "unsupported_media_type")


def test_closed_and_starting(paths: dict[str, str]) -> None:
    with serving(paths, Keyring(required=False), schedule=SHUT) as client:
        answer = client.post("/v1/classify", json=ASK)
        assert error(answer, 503, "closed") == "closed by schedule; opens Mon 2026-04-06 08:00 UTC"
        assert answer.headers["retry-after"] == str(6 * 86400 + 8 * 3600)
        assert client.get("/health").status_code == 200
        assert client.get("/v2/health/ready").status_code == 503
    limits = Limits()
    api = make_api(Guarded(LocalModels(paths), limits), Keyring(required=False), limits, Metrics())
    error(TestClient(api).post("/v1/classify", json=ASK), 503, "starting")


def test_the_clients_request_id_is_kept(http: TestClient) -> None:
    answer = http.get("/v1/models", headers={"x-request-id": "my-own.1"})
    error(answer, 401, "unauthorized")
    assert answer.headers["x-request-id"] == "my-own.1"


def test_metrics_count_and_tell_no_secret(http: TestClient, tokens: dict[str, str]) -> None:
    whole = bearer(tokens["all"])

    def read() -> dict[tuple[str, ...], float]:
        answer = http.get("/metrics", headers=whole)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert TEXT not in answer.text
        assert not any(token in answer.text for token in tokens.values())
        families = text_string_to_metric_families(answer.text)
        return {(s.name, *(s.labels[k] for k in sorted(s.labels))): s.value for f in families for s in f.samples}

    before = read()
    label = http.post("/v1/classify", json=ASK, headers=whole).json()["results"][0]["label"]
    http.post("/v1/classify", json={**ASK, "model": "none"}, headers=whole)
    http.get("/some/secret", headers=whole)
    http.request("MY-OWN", "/v1/classify", headers=whole)
    after = read()

    def grown(*place: str) -> float:
        return after[place] - before.get(place, 0)

    assert grown("rayclf_requests_total", "topics") == 1
    assert grown("rayclf_predictions_total", label, "topics") == 1
    assert grown("rayclf_request_errors_total", "not_found") == 1
    assert grown("rayclf_queue_seconds_count") == 1
    assert grown("rayclf_http_requests_total", "POST", "/v1/classify", "200") == 1
    assert grown("rayclf_http_requests_total", "POST", "/v1/classify", "404") == 1
    assert grown("rayclf_http_requests_total", "GET", "", "404") == 1
    assert grown("rayclf_http_requests_total", "other", "/v1/classify", "405") == 1
    assert after["rayclf_queue_rows",] == 0


def test_the_line_of_a_request(http: TestClient, tokens: dict[str, str], log_file: Path) -> None:
    store = {key.name: key.id for key in KeyStore(tokens["store"]).list()}
    begin = len(log_file.read_text().splitlines())
    http.post(
        "/v1/classify", json={"inputs": [TEXT, "A cell!"]}, headers=bearer(tokens["all"]) | {"x-request-id": "r1"}
    )
    http.post(f"/v1/classify?text={TEXT}", json=ASK, headers=bearer("wrong"))
    http.post("/v2/models/topics/infer", json={"inputs": []}, headers=bearer(tokens["all"]))
    http.get(f"/{TEXT}")
    http.post("/v1/classify", json={"inputs": ["a" * 20_000]})
    lines = [json.loads(line) for line in log_file.read_text().splitlines()[begin:]]
    first, wrong, infer, unknown, large = lines
    assert (first["model"], first["inputs"], first["key"], first["request_id"]) == ("topics", 2, store["all"], "r1")
    assert (first["method"], first["route"], first["status"]) == ("POST", "/v1/classify", 200)
    assert first["tokens"] > 10
    assert first["milliseconds"] > 0
    assert (wrong["status"], wrong["route"], wrong.get("key")) == (401, "/v1/classify", None)
    assert (infer["status"], infer["route"], infer["key"]) == (422, "/v2/models/{model}/infer", store["all"])
    assert (unknown["status"], unknown["route"]) == (404, "")
    assert (large["status"], large["route"]) == (413, "")
    whole = log_file.read_text()
    assert "nobody but its sender" not in whole
    assert not any(token in whole for token in tokens.values())


def test_requests_at_once_keep_their_own_key_and_line(paths: dict[str, str], tokens: dict[str, str]) -> None:
    """Context of one request must not leak into another that runs at the same time."""
    import httpx

    metrics, limits = Metrics(), Limits()

    async def run() -> None:
        models = LocalModels(paths)
        await models.start()
        api = make_api(Guarded(models, limits, None, metrics), Keyring(KeyStore(tokens["store"])), limits, metrics)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as client:

            async def ask(name: str) -> int:
                answer = await client.post("/v1/classify", json=ASK, headers=bearer(tokens[name]))
                return answer.status_code

            names = ["all", "flags"] * 10
            assert await asyncio.gather(*map(ask, names)) == [200, 403] * 10
        await models.close()

    asyncio.run(run())
