"""The errors that clients of the endpoint see, in one JSON shape.

``{"error": {"code": "rate_limited", "message": "one line", "request_id": "…"}}``: programs read the code, people the
message, and the request id finds the lines of the log.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from rayclf.errors import RayclfError

# ASGI's own words (https://asgi.readthedocs.io/en/stable/specs/main.html), so that no framework is imported for them.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    500: "internal_error",
    503: "unavailable",
}
_MOST_CHARACTERS = 500  # of a message: it may quote a field's name, which is as long as the client made it


class ApiError(RayclfError):
    """An answer other than 200: HTTP status, a code for programs, one line for people, extra headers."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        # Ray gives an error of another process a class of its own, which has these by asking for them, not as text.
        self.status = status
        self.code = code
        self.message = self.args[0] if len(self.args[0]) <= _MOST_CHARACTERS else f"{self.args[0][:_MOST_CHARACTERS]}…"
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[type[ApiError], tuple[int, str, str, dict[str, str]]]:
        return ApiError, (self.status, self.code, self.message, self.headers)

    def body(self, request_id: str) -> bytes:
        """The JSON that every error is."""
        error = {"code": self.code, "message": self.message, "request_id": request_id}
        return json.dumps({"error": error}).encode()  # ASCII: what is quoted may hold half a surrogate pair


def bad_request(message: str) -> ApiError:
    """400: not HTTP or JSON as it should be."""
    return ApiError(400, CODES[400], message)


def unauthorized() -> ApiError:
    """401: no key, or none that is valid; always the same words, so that they tell nothing about keys."""
    message = "missing or wrong API key; send Authorization: Bearer KEY or X-API-Key: KEY"
    return ApiError(401, CODES[401], message, {"WWW-Authenticate": "Bearer"})


def forbidden(message: str) -> ApiError:
    """403: a valid key that may not do this."""
    return ApiError(403, CODES[403], message)


def not_found(message: str) -> ApiError:
    """404: no such route or model."""
    return ApiError(404, CODES[404], message)


def unsupported_media_type() -> ApiError:
    """415: a body that does not say it is JSON."""
    return ApiError(415, CODES[415], "body: not said to be JSON; send Content-Type: application/json")


def too_large(message: str) -> ApiError:
    """413: a body over the limit; the connection ends, since the rest of the body is not read."""
    return ApiError(413, CODES[413], message, {"Connection": "close"})


def invalid(message: str) -> ApiError:
    """422: JSON in which a field, named first in ``message``, is wrong or over a limit."""
    return ApiError(422, CODES[422], message)


def rate_limited(message: str, retry_after: float) -> ApiError:
    """429: too many requests with this key; ``retry_after`` in seconds."""
    return ApiError(429, CODES[429], message, {"Retry-After": _seconds(retry_after)})


def unavailable(message: str, retry_after: float, code: str = "unavailable") -> ApiError:
    """503: overloaded, starting, out of time or outside the schedule; ``retry_after`` in seconds.

    ``code`` says which: ``overloaded``, ``starting``, ``timeout``, ``closed``.
    """
    return ApiError(503, code, message, {"Retry-After": _seconds(retry_after)})


def _seconds(wait: float) -> str:
    return str(max(1, math.ceil(wait)))


def request_id(scope: Scope) -> str:
    """The id of a request, which the middleware has set; made here when it has not."""
    state = scope.setdefault("state", {})
    return str(state.setdefault("request_id", uuid.uuid4().hex))


async def send_error(error: ApiError, scope: Scope, send: Send) -> None:
    """Answer with ``error`` from below the framework."""
    body = error.body(request_id(scope))
    headers = {"content-type": "application/json", "content-length": str(len(body))} | error.headers
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
