"""Spans of requests, as a collector gets them over HTTP."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from rayclf.errors import ConfigError
from rayclf.serving import tracing
from rayclf.serving.access import Access, note
from rayclf.serving.metrics import Metrics

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """The address of one, and what it was sent."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()
        thread.join()


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """A route that fails for a model named ``bad``."""
    note(model="topics", inputs=2, tokens=11)
    scope["route"] = type("Route", (), {"path": "/v2/models/{model}/infer"})
    await send({"type": "http.response.start", "status": 500 if "bad" in scope["path"] else 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tickets")


def test_a_span_for_each_request_in_the_trace_of_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (address, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        tracer = tracing.open_tracer()
        assert tracer is not None
        client = TestClient(Access(answer, Metrics(), tracer=tracer))
        client.post("/v2/models/secret/infer?x=secret", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        client.post("/v2/models/bad/infer")
        tracer.span_processor.force_flush()  # type: ignore[attr-defined]
        tracer.span_processor.shutdown()  # type: ignore[attr-defined]
    sent = [one for request in got for one in request.resource_spans]
    assert {a.value.string_value for one in sent for a in one.resource.attributes if a.key == "service.name"} == {
        "tickets"
    }
    first, second = (span for one in sent for scope in one.scope_spans for span in scope.spans)
    assert first.name == "POST /v2/models/{model}/infer"
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    told = {a.key: a.value.string_value or a.value.int_value for a in first.attributes}
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "rayclf.model": "topics",
        "rayclf.inputs": 2,
        "rayclf.tokens": 11,
    }
    assert second.trace_id.hex() != TRACE
    assert (first.status.code, second.status.code) == (0, 2)  # unset and error
    assert b"secret" not in b"".join(request.SerializeToString() for request in got)


def test_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing.open_tracer() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing.open_tracer() is None


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: .*pip install 'rayclf\[traces\]'"):
        tracing.open_tracer()
