"""HTTP/1.1 over a connection of its own, that what a server does with it is seen as it is."""

from __future__ import annotations

import asyncio
import secrets

from serve import request_bytes

KEY = secrets.token_hex(16)


class Wire:
    """One connection, made again whenever it has ended; ``version`` is that of the model that answered last."""

    def __init__(self, port: int) -> None:
        self.port, self.streams, self.version = port, None, ""

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer; 0 where the server ended the connection without one."""
        for _ in range(2):  # the server may have closed an idle connection in the meantime
            fresh = self.streams is None
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            try:
                writer.write(request)
                await writer.drain()
            except ConnectionError:
                pass  # an answer may be there all the same
            try:
                return await self.read(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.close()
                if fresh:
                    break
        return 0, b""

    async def read(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        """One answer."""
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        self.version = head.partition(b"x-model-version:")[2].partition(b"\r\n")[0].decode().strip()
        if b"transfer-encoding: chunked" in head:  # what Serve's proxy says itself
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readuntil(b"\r\n")
        else:
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(size)
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body

    def close(self) -> None:
        """End it."""
        if self.streams:
            self.streams[1].close()
        self.streams = None


def signed(path: str, body: object, key: str = KEY) -> bytes:
    """A request with a key."""
    return request_bytes(path, body, f"X-API-Key: {key}\r\n")


def raw(path: str, content: bytes) -> bytes:
    """A request whose body may be anything."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-API-Key: {KEY}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
