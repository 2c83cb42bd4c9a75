"""In Ray Serve's proxy: what an application cannot do for itself.

The proxy takes a body as fast as it comes, without waiting for the application to read it; so a body without end is
cut off here. And it sends nothing when an ingress process dies with a request: its HTTP server then makes a bare 500
of it, which says that another attempt is in vain. Serve loads :func:`middlewares` where
``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rayclf.serving.api_errors import ASGIApp, Message, Receive, Scope, Send, send_error, unavailable
from rayclf.serving.headers import BodyLimit, Headers
from rayclf.serving.limits import MOST_BODY_BYTES

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
    """What Serve's proxies put around every application, the last one outermost.

    How long a body may take, and a tighter limit of its bytes, is for each application to say.
    """
    from starlette.middleware import Middleware

    return [Middleware(Lost), Middleware(BodyLimit, max_bytes=MOST_BODY_BYTES, timeout_s=math.inf)]
