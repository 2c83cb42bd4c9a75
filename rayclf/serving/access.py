"""One line of JSON for each request, its count and its span: method, route, status, time, model, tokens, and whose key.

Never texts or keys, and no path but the route's template, since a path is as the client likes it. Plain ASGI
middleware, outside of all other, so that refusals of any layer are there too.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any

from rayclf.errors import OutputError
from rayclf.serving import tracing
from rayclf.serving.api_errors import ASGIApp, Message, Receive, Scope, Send
from rayclf.serving.metrics import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

VARIABLE = "RAYCLF_ACCESS_LOG"
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_CLIENT_GONE = 499  # nginx' number for it; no answer was begun
_noted: ContextVar[dict[str, Any]] = ContextVar("noted")


def note(**fields: Any) -> None:
    """Put ``fields``, such as ``model`` and ``tokens``, into the line of the request at hand."""
    noted = _noted.get(None)
    if noted is not None:
        noted.update(fields)


def open_log(where: str) -> logging.Logger | None:
    """The logger ``rayclf.access``: ``1`` writes to standard output, all else but nothing and ``0`` names a file.

    A file that is moved away is made anew, as logrotate wants it. Raises OutputError when it cannot be written.
    """
    if where in ("", "0"):
        return None
    log = logging.getLogger("rayclf.access")
    try:
        handler = logging.StreamHandler(sys.stdout) if where == "1" else WatchedFileHandler(where, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{VARIABLE}={where}: cannot be written ({error.strerror}); name a file, or 1") from None
    for old in log.handlers[:]:
        log.removeHandler(old)
        old.close()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    return log


class Access:
    """Counts each request in ``metrics``; with a ``log`` writes its line, with a ``tracer`` makes its span."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, log: logging.Logger | None = None, tracer: Tracer | None = None
    ) -> None:
        self.app, self._metrics, self._log, self._tracer = app, metrics, log, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application and look at what it answers."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, noted = time.perf_counter(), _CLIENT_GONE, dict[str, Any]()
        span = tracing.begin(self._tracer, scope) if self._tracer is not None else None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        token = _noted.set(noted)
        try:
            await self.app(scope, receive, watched)
        finally:
            _noted.reset(token)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "")  # which the router has set; none for an unknown path
            self._metrics.http(route, method, status)
            line = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request_id": scope.get("state", {}).get("request_id"),
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round((time.perf_counter() - began) * 1000, 1),
                **noted,
            }
            if span is not None:
                tracing.end(span, line)
            if self._log is not None:
                self._log.info(json.dumps(line))
