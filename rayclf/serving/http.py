"""The HTTP application: every protocol, behind keys, limits and one shape of errors."""

from __future__ import annotations

import logging

from fastapi import APIRouter, FastAPI, params
from fastapi.responses import HTMLResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

import rayclf
from rayclf.serving import error_handlers, headers
from rayclf.serving.access import Access, note
from rayclf.serving.answer import Endpoint
from rayclf.serving.guarded import asking
from rayclf.serving.json_body import BeforeBody
from rayclf.serving.keyring import Keyring
from rayclf.serving.limits import Limits, RateLimiter
from rayclf.serving.metrics import Metrics
from rayclf.serving.page import PAGE, POLICY
from rayclf.serving.protocols import classification_form, kserve, native, tei, vllm
from rayclf.serving.tracing import open_tracer


def make_api(
    endpoint: Endpoint,
    keyring: Keyring,
    limits: Limits,
    metrics: Metrics,
    access_log: logging.Logger | None = None,
    *,
    tell_id: bool = True,
    rates: RateLimiter | None = None,
) -> FastAPI:
    """The application in front of ``endpoint``, which should be a :class:`~rayclf.serving.guarded.Guarded` one.

    Everything but the testing page, the API's description and health asks for a key, where the keyring does. Each
    request is counted in ``metrics`` and, with an ``access_log``, written there; :mod:`~rayclf.serving.tracing` says
    when it gets a span. ``tell_id`` is that of :class:`~rayclf.serving.headers.Headers`; ``rates`` counts the requests
    of each key, as if this were the only process when unset.
    """
    app = FastAPI(title="rayclf", version=rayclf.__version__, description="Text classification by fine-tuned models.")
    error_handlers.install(app)
    check = params.Depends(_KeyCheck(keyring, rates or RateLimiter()))

    def get() -> Endpoint:
        return endpoint

    for protocol in (native, classification_form, vllm, tei, kserve):
        app.include_router(protocol.router(get, [check]))
    app.include_router(kserve.health_router(get))
    app.include_router(_own_routes(metrics), dependencies=[check])

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """Answers when the server takes requests."""
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        """The testing page."""
        return HTMLResponse(PAGE)

    headers.install(app, limits, {"/": POLICY}, tell_id)
    app.add_middleware(Access, metrics=metrics, log=access_log, tracer=open_tracer())  # the last is the outermost
    return app


def _own_routes(metrics: Metrics) -> APIRouter:
    routes = APIRouter(tags=["watching"])

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def show() -> Response:
        """Prometheus metrics of the process that answers."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


class _KeyCheck(HTTPBearer, BeforeBody):
    """The check of keys as what the API's description tells of it, so that a request has one dependency to solve."""

    def __init__(self, keyring: Keyring, rates: RateLimiter) -> None:
        super().__init__(scheme_name="HTTPBearer", description="An API key, where the server asks for one.")
        self._keyring, self._rates = keyring, rates

    async def __call__(self, request: HTTPConnection) -> None:
        if "rayclf.key" in request.scope:  # asked before the body was read
            return
        await self._keyring.refreshed()
        key = self._keyring.identify(request.headers.get("authorization"), request.headers.get("x-api-key"))
        note(key=key.id)
        self._rates.check(key.id, key.rate)
        asking.set(key)
        request.scope["rayclf.key"] = key.id
