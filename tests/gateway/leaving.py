"""A client on a raw socket: it asks, reads as much as it wants, and leaves as it likes."""

import asyncio
import json
import socket
import struct
import time
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from tests.canaries import PROMPT

Way = Literal["fin", "rst"]


class Open(Protocol):
    """A gateway: its address, and a key that works."""

    @property
    def url(self) -> str: ...

    @property
    def key(self) -> str: ...


ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": PROMPT}]}
STREAM: dict[str, Any] = {**ASK, "stream": True}


def request(door: Open, body: dict[str, Any] | bytes = STREAM, *headers: str, key: str | None = None) -> bytes:
    """The bytes of a whole chat request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        f"Authorization: Bearer {key or door.key}",
        "Content-Type: application/json",
        *(headers or (f"Content-Length: {len(content)}",)),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Leaver:
    """One connection. `left_at` is on the clock of `time.monotonic()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.left_at = 0.0

    @classmethod
    async def come(cls, door: Open, data: bytes, *, window: int = 0) -> "Leaver":
        """Connect and send; `window` bounds the kernel's receive buffer, in bytes."""
        address = urlsplit(door.url)
        sock = socket.socket()
        if window:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address.hostname, address.port))
        leaver = cls(*await asyncio.open_connection(sock=sock, limit=2**16))
        leaver.writer.write(data)
        return leaver

    async def head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def events(self, count: int) -> None:
        for _ in range(count):
            await self.reader.readuntil(b"\n\n")

    def leave(self, way: Way) -> None:
        if way == "rst":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.writer.transport.abort()
        else:
            self.writer.close()
        self.left_at = time.monotonic()
