"""An upstream for tests on a real socket: it records each request exactly and answers with a script, faults included.

async with ScriptedUpstream() as upstream:
    upstream.enqueue(sse({"choices": []}, b": ping\\n\\n", gap=0.01))
    upstream.enqueue([HEAD, Chunk(b"half"), RESET])
    upstream.default = json_answer({"object": "list", "data": []})
    ... call upstream.url + "/v1/chat/completions" ...
    assert upstream.requests[0].header("authorization") == "Bearer sk-up"
"""

import asyncio
import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self, cast


class Act(Enum):
    """Steps without a value. HANG lasts until the peer leaves; HALF_CLOSE sends FIN and goes on reading."""

    RESET = "reset"
    FIN = "fin"
    HALF_CLOSE = "half close"
    HANG = "hang"


RESET, FIN, HALF_CLOSE, HANG = Act.RESET, Act.FIN, Act.HALF_CLOSE, Act.HANG


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Chunk:
    """One piece of a chunked body; the empty one is its end."""

    data: bytes = b""


Step = bytes | Pause | Chunk | Act
Script = Sequence[Step]

SSE_HEADERS = {"content-type": "text/event-stream"}


@dataclass(frozen=True)
class Received:
    """One request as it came: names, order and case of the headers untouched."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str | None:
        """The first header of that name, whatever its case; None where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Connection:
    """`left_at` is when the peer closed or reset it (`time.monotonic()`); None while it has not."""

    number: int
    opened_at: float
    left_at: float | None = None
    is_open: bool = True
    left: asyncio.Event = field(default_factory=asyncio.Event)


def head(status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A status line and headers, with the empty line that ends them."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def json_answer(obj: object, status: int = 200, headers: Mapping[str, str] | None = None) -> list[Step]:
    """A whole answer with a content-length, in one write."""
    body = json.dumps(obj, separators=(",", ":")).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    return [head(status, fields) + body]


def sse(*chunks: object, gap: float = 0.0, done: bool = True, headers: Mapping[str, str] | None = None) -> list[Step]:
    """An event stream, chunked: bytes go out as they are, all else as `data: {json}`; `gap` seconds before each."""
    steps: list[Step] = [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked", **(headers or {})})]
    events = [chunk if isinstance(chunk, bytes) else event(chunk) for chunk in chunks]
    for data in [*events, *([b"data: [DONE]\n\n"] if done else [])]:
        steps += [Pause(gap), Chunk(data)] if gap else [Chunk(data)]
    return [*steps, Chunk()]


def event(obj: object) -> bytes:
    return b"data: " + json.dumps(obj, separators=(",", ":")).encode() + b"\n\n"


class Wire(asyncio.StreamReaderProtocol):
    """A reader that also notes when the peer leaves, while a script is under way too."""

    def __init__(self, upstream: "ScriptedUpstream") -> None:
        self.reader = asyncio.StreamReader(limit=2**26)
        super().__init__(self.reader)
        self.upstream = upstream
        self.record: Connection | None = None
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        wire = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self.record = Connection(len(self.upstream.connections), time.monotonic())
        self.upstream.connections.append(self.record)
        self.task = asyncio.ensure_future(self.upstream.serve(self.reader, wire, self.record))
        self.upstream.tasks.add(self.task)
        self.task.add_done_callback(self.upstream.tasks.discard)

    def eof_received(self) -> bool | None:
        self.leave()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.leave()
        if self.record is not None:
            self.record.is_open = False

    def leave(self) -> None:
        if self.record is not None and self.record.left_at is None:
            self.record.left_at = time.monotonic()
            self.record.left.set()


class ScriptedUpstream:
    """An HTTP/1.1 server on 127.0.0.1: the queue's next script for each request, then `default`.

    `port` 0 is any that is free.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.tls = tls
        self.host = host
        self.port = port
        self.requests: list[Received] = []
        self.connections: list[Connection] = []
        self.default: Script | Callable[[Received], Script] = json_answer({})
        self.queue: deque[Script] = deque()
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: Wire(self), self.host, self.port, ssl=self.tls, backlog=2048)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No more listening, every connection reset: from now on the address refuses."""
        if self.server is not None:
            self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return sum(connection.is_open and connection.left_at is None for connection in self.connections)

    def enqueue(self, *scripts: Script) -> None:
        """One script for each of the next requests, in the order in which they come."""
        self.queue.extend(scripts)

    async def idle(self, within: float = 1.0) -> None:
        """Returns once no connection is open; TimeoutError after `within` seconds."""
        async with asyncio.timeout(within):
            while self.open_connections:
                await asyncio.sleep(0.005)

    async def serve(self, reader: asyncio.StreamReader, transport: asyncio.Transport, record: Connection) -> None:
        try:
            while not transport.is_closing():
                request = await self.read(reader, record.number)
                self.requests.append(request)
                default = self.default(request) if callable(self.default) else self.default
                await self.play(self.queue.popleft() if self.queue else default, transport, record)
        except (asyncio.IncompleteReadError, ConnectionError):
            transport.close()
        finally:
            if not transport.is_closing():
                transport.abort()

    async def read(self, reader: asyncio.StreamReader, connection: int) -> Received:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = lines[0].split(" ", 2)
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]
        fields = {name.lower(): value for name, value in headers}
        body = b""
        if fields.get("transfer-encoding") == "chunked":
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readexactly(2)
        elif length := int(fields.get("content-length", "0")):
            body = await reader.readexactly(length)
        return Received(method, target, headers, body, connection)

    async def play(self, script: Script, transport: asyncio.Transport, record: Connection) -> None:
        for step in script:
            if isinstance(step, bytes):
                await self.write(step, transport, record)
            elif isinstance(step, Chunk):
                await self.write(b"%x\r\n%b\r\n" % (len(step.data), step.data), transport, record)
            elif isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            elif step is Act.HANG:
                await record.left.wait()
            elif step is Act.HALF_CLOSE:
                transport.write_eof()
            else:
                self.end(step, transport)

    async def write(self, data: bytes, transport: asyncio.Transport, record: Connection) -> None:
        """Waits while more than 1 MiB lies unsent, so that a peer that does not read is felt."""
        if transport.is_closing():
            raise ConnectionResetError
        transport.write(data)
        while transport.get_write_buffer_size() > 2**20 and not transport.is_closing():
            await asyncio.sleep(0.001)

    def end(self, act: Act, transport: asyncio.Transport) -> None:
        if act is Act.RESET:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()
