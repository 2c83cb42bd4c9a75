"""In Ray Serve's proxy: the answer to a request that was lost with the process that had it.

Serve's proxy sends nothing when an ingress process dies with a request, and its HTTP server then makes a bare 500 of
it, which says that another attempt is in vain. Serve loads :func:`middlewares` where
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayclf.serving.api_errors import ASGIApp, Message, Receive, Scope, Send, send_error, unavailable
from rayclf.serving.headers import Headers

if TYPE_CHECKING:
    from starlette.middleware import Middleware


class Lost:
    """A 503 with ``Retry-After`` where the application ends without an answer, as no sound one does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        await self.app(scope, receive, watched)
        if not started:  # a client that has gone is told as well: the server drops it
            await Headers(_refuse)(scope, receive, send)


async def _refuse(scope: Scope, _: Receive, send: Send) -> None:
    await send_error(unavailable("the process that had this request died; send it again", 1, "lost"), scope, send)


def middlewares() -> list[Middleware]:
    """What Serve's proxies put around every application."""
    from starlette.middleware import Middleware

    return [Middleware(Lost)]
