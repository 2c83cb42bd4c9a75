"""JSON bodies, read strictly: what Python's parser lets through and later code breaks on is refused here with 400."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from rayclf.serving.api_errors import bad_request, unsupported_media_type

MAX_DEPTH = 32
_JSON = re.compile(r"\s*application/([\w.+-]+\+)?json\s*(;|$)", re.IGNORECASE)


def parse_json(body: bytes) -> Any:
    """The value that ``body`` is; UTF-8 with or without a byte order mark.

    Raises ApiError 400 for what is not JSON (RFC 8259): also NaN and Infinity, which Python's parser takes, numbers of
    thousands of digits, text with half a surrogate pair, which no tokenizer can encode, and nesting deeper than
    ``MAX_DEPTH``, on which code that walks the value by recursion would fail.
    """
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_not_json)
    except UnicodeDecodeError as error:
        raise bad_request(f"body: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise bad_request(f"body: not JSON at line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # NaN, or too many digits
        raise bad_request(f"body: not JSON: {error}") from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    if b"\\ud" in body or b"\\uD" in body:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise bad_request("body: a text holds half a surrogate pair, \\ud800 to \\udfff") from None
    return value


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _check_depth(value: Any) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH + 1):
        layer = [item for item in layer if isinstance(item, dict | list)]
        if not layer:
            return
        layer = [child for item in layer for child in (item.values() if isinstance(item, dict) else item)]
    raise _too_deep()


def _too_deep() -> Exception:
    return bad_request(f"body: nested more than {MAX_DEPTH} deep")


def json_answer(form: BaseModel) -> Response:
    """``form`` as JSON, without the fields that are None.

    Returned as it is, FastAPI would check and copy once more what we have just made: all its numbers, label by label.
    """
    return Response(form.model_dump_json(exclude_none=True), media_type="application/json")


class _JsonRequest(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_parsed"):
            self._parsed = parse_json(await self.body())
        return self._parsed


class BeforeBody(ABC):
    """A dependency that :class:`JsonRoute` asks before it reads the body: who may not ask at all should cost nothing.

    FastAPI, which solves dependencies after that, calls it again with the same ``scope``.
    """

    @abstractmethod
    async def __call__(self, request: HTTPConnection) -> None:
        """Raise ApiError for a request that is refused."""


class JsonRoute(APIRoute):
    """A route that reads its body by :func:`parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's documented way to give a route a request class of its own."""
        handle = super().get_route_handler()
        early = [one.dependency for one in self.dependencies if isinstance(one.dependency, BeforeBody)]

        async def handler(request: Request) -> Response:
            request = _JsonRequest(request.scope, request.receive)
            for check in early:
                await check(request)
            # Read here, since FastAPI would take an ApiError for "There was an error parsing the body".
            if self.body_field is not None and await request.body():
                if not _JSON.match(request.headers.get("content-type", "")):
                    raise unsupported_media_type()
                await request.json()
            return await handle(request)

        return handler
