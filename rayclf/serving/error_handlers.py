"""The handlers that give every error of every route the one shape of :mod:`rayclf.serving.api_errors`.

What a client did wrong is told to it; what is wrong with the server is told to the log alone, and there without the
messages of unknown errors, which may quote texts.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rayclf.errors import DataError, LabelError, RayclfError, UserError
from rayclf.serving.api_errors import (
    CODES,
    ApiError,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    bad_request,
    invalid,
    request_id,
    send_error,
)
from rayclf.serving.json_body import JsonRoute
from rayclf.serving.protocol import error_line

_log = logging.getLogger("rayclf.serving")


def from_exception(error: Exception, request: str) -> ApiError:
    """The answer for an error that nobody caught: 422 for unusable input, 500 for all else, told in the log."""
    cause = getattr(error, "cause", None)  # what Ray raises for another process's error
    error = cause if isinstance(cause, Exception) else error
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DataError | LabelError):
        return invalid(str(error))
    # Other mistakes of users are those of who runs the server: a damaged artifact, a storage that cannot be reached.
    # Their messages hold no texts; those of unknown errors may.
    what = str(error) if isinstance(error, UserError) else ""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames[-12:]))
    _log.error("request %s: %s%s at %s", request, type(error).__name__, what and f": {what}", places or "?")
    return ApiError(500, CODES[500], "internal error; the server's log has more under the request id")


class CatchAll:
    """ASGI middleware: what no handler took becomes :func:`from_exception`.

    A handler of FastAPI for all exceptions would raise them again, and the server would log their messages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application; an answer that broke off half-way ends the connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = gone = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        async def watched_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        try:
            await self.app(scope, watched_receive, watched_send)
        except Exception as error:
            if gone and not started:  # nobody is there to be told
                return
            answer = from_exception(error, request_id(scope))
            if not started:
                return await send_error(answer, scope, send)
        else:
            return
        raise ConnectionAbortedError("an answer broke off half-way")  # the server closes the connection


def install(app: FastAPI, translate: Mapping[type[Exception], Callable[[Exception], ApiError]] | None = None) -> None:
    """Give ``app`` the one shape of errors; call it before routes are added.

    ``translate`` makes ApiErrors of other exceptions, such as Ray Serve's back pressure. Routes added afterwards read
    JSON by :mod:`rayclf.serving.json_body` and show the shape in the OpenAPI schema.
    """
    translated = translate or {}

    async def handle(request: Request, error: Exception) -> Response:
        make = next((make for kind, make in translated.items() if isinstance(error, kind)), None)
        if make is not None:
            found = make(error)
        elif isinstance(error, RequestValidationError):
            unread = error.errors()[0]["type"] == "json_invalid"
            found = (bad_request if unread else invalid)(error_line(error.errors()))
        elif isinstance(error, HTTPException):
            found = _from_http(error.status_code, str(error.detail), error.headers or {}, request.url.path)
        else:
            found = from_exception(error, request_id(request.scope))
        return Response(found.body(request_id(request.scope)), found.status, found.headers, "application/json")

    for kind in (RequestValidationError, HTTPException, RayclfError, *translated):
        app.add_exception_handler(kind, handle)
    app.add_middleware(CatchAll)
    app.router.route_class = JsonRoute
    app.router.responses = RESPONSES | app.router.responses


def _from_http(status: int, detail: str, headers: Mapping[str, str], path: str) -> ApiError:
    """What the framework itself refuses; its own detail is only the status in words."""
    if status == 404 and detail == HTTPStatus(404).phrase:
        detail = f"{path}: no such route"
    elif status == 405 and detail == HTTPStatus(405).phrase:
        detail = f"{path}: wrong method; this route takes {headers.get('Allow', 'others')}"
    return ApiError(status, CODES.get(status, "error"), detail, headers)


def _described(status: int) -> dict[str, Any]:
    text = {"type": "string"}
    error = {
        "type": "object",
        "properties": {"code": text, "message": text, "request_id": text},
        "required": ["code", "message", "request_id"],
    }
    schema = {"type": "object", "properties": {"error": error}, "required": ["error"]}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": {"schema": schema}}}


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: _described(status) for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503)
}
