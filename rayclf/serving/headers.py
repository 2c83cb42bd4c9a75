"""What every request and answer goes through below the framework: ids, security headers, a bounded body.

Plain ASGI middleware: streamed answers stay streamed, and an application still sees its client go away, which
Starlette's BaseHTTPMiddleware is known to break. :func:`guard` puts both around an application.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rayclf.serving.api_errors import (
    ApiError,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    bad_request,
    send_error,
    too_large,
)
from rayclf.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

_ID = re.compile(rb"[A-Za-z0-9._:=+/@-]{1,128}")
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),  # answers depend on the key, and on texts that are not to lie in caches
)
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
# FastAPI's own pages load Swagger UI and ReDoc from there, with a script in the page.
_CDN = "https://cdn.jsdelivr.net"
_DOCS_POLICY = (
    f"default-src 'self'; script-src 'unsafe-inline' {_CDN}; style-src 'unsafe-inline' {_CDN} "
    "https://fonts.googleapis.com; font-src https://fonts.gstatic.com; worker-src blob:; "
    "img-src data: https://fastapi.tiangolo.com https://cdn.redoc.ly; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def page_policy(*inline: str) -> str:
    """The Content-Security-Policy of an own page: only what comes from this server, and the ``inline`` blocks.

    ``inline`` is what stands between ``<script>`` or ``<style>`` and its end, to the letter; each is allowed by its
    hash (CSP Level 3, https://www.w3.org/TR/CSP3/#match-element-to-source-list).
    """
    hashes = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in inline)
    own = " ".join(["'self'", *(f"'sha256-{value}'" for value in hashes)])
    return (
        f"default-src 'none'; script-src {own}; style-src {own}; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Headers:
    """A request id and the security headers for every answer; a header that the application set stays as it is.

    The id is the client's ``X-Request-ID`` when it is 1 to 128 harmless characters, else a new one; it is in
    ``scope["state"]["request_id"]``. ``policies`` has Content-Security-Policies by path, on top of those for ``/docs``
    and ``/redoc``; other HTML gets :func:`page_policy`, and all else may load nothing. Without ``tell_id`` the answer's
    header is left to a proxy that writes it, as Ray Serve's does.
    """

    def __init__(self, app: ASGIApp, policies: Mapping[str, str] | None = None, tell_id: bool = True) -> None:
        self.app, self.tell_id = app, tell_id
        self.policies = {"/docs": _DOCS_POLICY, "/redoc": _DOCS_POLICY} | dict(policies or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with its request id known."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = _header(scope, b"x-request-id")
        request_id = given if given is not None and _ID.fullmatch(given) else uuid.uuid4().hex.encode()
        scope["state"] = {**scope.get("state", {}), "request_id": request_id.decode()}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(bytes(name).lower(), value) for name, value in message.get("headers", ())]
                present = dict(headers)
                path = str(scope.get("path", "")).removeprefix(scope.get("root_path", ""))  # below its own route
                policy = self.policies.get(path or "/")
                if policy is None:
                    html = present.get(b"content-type", b"").startswith(b"text/html")
                    policy = page_policy() if html else _API_POLICY
                wanted = (*_SECURITY, (b"content-security-policy", policy.encode()))
                headers = [(name, value) for name, value in headers if name != b"x-request-id"]
                headers += [(name, value) for name, value in wanted if name not in present]
                headers += [(b"x-request-id", request_id)] if self.tell_id else []
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, with_headers)


class BodyLimit:
    """413 for a body of more than ``max_bytes``, 408 for one that has not come within ``timeout_s``.

    A body that says its size is refused unread; another is read no further than the limit. The application then sees
    its client gone, and what it still sends goes nowhere: so it cannot turn the refusal into an answer of its own.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout_s: float) -> None:
        self.app, self.max_bytes, self.timeout_s = app, max_bytes, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, unless the body is too large already by its own word."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        size = _header(scope, b"content-length")
        if size is not None:
            if not size.isdigit():
                return await send_error(bad_request("Content-Length: not a number of bytes"), scope, send)
            if len(size) > 18 or int(size) > self.max_bytes:
                return await send_error(self._too_large(), scope, send)
        seen, complete, started, refused = 0, False, False, False
        deadline = time.monotonic() + self.timeout_s

        async def refuse(error: ApiError) -> Message:
            nonlocal refused
            refused = True
            if not started:
                await send_error(error, scope, send)
            return {"type": "http.disconnect"}

        async def bounded_receive() -> Message:
            nonlocal seen, complete
            if refused:
                return {"type": "http.disconnect"}
            if complete:  # from here on it is asked whether the client is still there, for as long as it takes
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                return await refuse(self._too_slow())
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if seen > self.max_bytes:
                    return await refuse(self._too_large())
            return message

        async def open_send(message: Message) -> None:
            nonlocal started
            if not refused:
                started = True
                await send(message)

        await self.app(scope, bounded_receive, open_send)

    def _too_large(self) -> ApiError:
        return too_large(f"body: more than {self.max_bytes} bytes; send fewer or shorter texts in one request")

    def _too_slow(self) -> ApiError:
        message = f"body: not whole within {self.timeout_s:g} seconds; send less in one request"
        return ApiError(408, "timeout", message, {"Connection": "close"})


def guard(app: ASGIApp, limits: Limits | None = None, policies: Mapping[str, str] | None = None) -> ASGIApp:
    """``app`` with a bounded body, inside of ids and headers, which refusals carry too."""
    limits = limits or Limits()
    return Headers(BodyLimit(app, limits.max_body_bytes, limits.body_timeout_s), policies)


def install(
    app: FastAPI, limits: Limits | None = None, policies: Mapping[str, str] | None = None, tell_id: bool = True
) -> None:
    """The same for a FastAPI application, whose other middleware must be added before."""
    limits = limits or Limits()
    app.add_middleware(BodyLimit, max_bytes=limits.max_body_bytes, timeout_s=limits.body_timeout_s)
    app.add_middleware(Headers, policies=policies, tell_id=tell_id)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((bytes(value) for key, value in scope.get("headers", ()) if bytes(key).lower() == name), None)
