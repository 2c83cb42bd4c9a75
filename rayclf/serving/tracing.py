"""A span of OpenTelemetry for each request, where its standard variables name a collector.

``OTEL_EXPORTER_OTLP_ENDPOINT`` turns it on; ``OTEL_SERVICE_NAME``, ``OTEL_TRACES_SAMPLER`` and the others of the
specification do what they do everywhere: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables.
A trace that the client began (W3C ``traceparent``) is gone on with. No span holds texts, keys or paths as sent.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rayclf.errors import ConfigError
from rayclf.serving.api_errors import Scope

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
# The names of the semantic conventions for HTTP servers; what is rayclf's own has its prefix.
_NAMES = {"method": "http.request.method", "route": "http.route", "status": "http.response.status_code"}
# Of which Ray brings the first two.
_PACKAGES = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.exporter.otlp")
_KEPT = ("request_id", "model", "inputs", "tokens", "key", "code")


def are_wanted() -> bool:
    """Whether a collector is named; raises ConfigError when one is and OpenTelemetry's packages are missing."""
    variable = next((name for name in _VARIABLES if os.environ.get(name)), None)
    if variable is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if not all(map(importlib.util.find_spec, _PACKAGES)):
        raise ConfigError(f"{variable}: traces need OpenTelemetry; pip install 'rayclf[traces]', or unset it")
    return True


def open_tracer() -> Tracer | None:
    """What makes spans and sends them in the background, if they :func:`are_wanted`."""
    if not are_wanted():
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", "rayclf")
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("rayclf.serving")


def begin(tracer: Tracer, scope: Scope) -> Span:
    """The span of the request in ``scope``, within the client's trace if it has one."""
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    headers = {bytes(name).decode("latin-1"): bytes(value).decode("latin-1") for name, value in scope["headers"]}
    return tracer.start_span("HTTP", context=extract(headers), kind=SpanKind.SERVER)


def end(span: Span, line: Mapping[str, Any]) -> None:
    """End it with what the access log tells of the request."""
    from opentelemetry.trace import StatusCode

    span.update_name(f"{line['method']} {line['route']}".strip())
    for field, name in _NAMES.items():
        span.set_attribute(name, line[field])
    for field in _KEPT:
        if line.get(field) is not None:
            span.set_attribute(f"rayclf.{field}", line[field])
    if line["status"] >= 500:
        span.set_status(StatusCode.ERROR)
    span.end()
