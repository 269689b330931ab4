"""A server in this loop, and a client that writes bytes as they are given."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxysite.protocol import GatewayProtocol
from proxysite.refusals import ASGIApp
from proxysite.server import GatewayServer, configuration


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)["error"]
        return value


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    *,
    protocol: type[HttpToolsProtocol] = GatewayProtocol,
    **options: Any,
) -> AsyncIterator[tuple[int, GatewayServer]]:
    """The application on a free port of this machine: (port, server)."""
    options = {"lifespan": "off", **options}
    server = GatewayServer(configuration(app, host="127.0.0.1", port=0, http=protocol, log_config=None, **options))
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.005)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], server
    finally:
        server.should_exit = server.force_exit = True
        await task


async def say(port: int, data: bytes, *, seconds: float = 5.0) -> bytes:
    """Everything that the server answers until it closes, or until it has been silent for `seconds`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(rest(reader, seconds))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            await writer.drain()
        return await reading
    finally:
        writer.close()


async def rest(reader: asyncio.StreamReader, seconds: float = 5.0) -> bytes:
    got = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                got += part
    return got


def answers(raw: bytes) -> list[Answer]:
    """The answers in these bytes, each with a content-length."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        found.append(Answer(int(first.split(" ")[1]), headers, raw[:length]))
        raw = raw[length:]
    return found
