"""Lambda as the runtime sees it: the Runtime API on a socket, which notes when each byte came.

async with Emulator() as emulator:
    ... start a runtime with emulator.environment() ...
    delivery = await emulator.invoke(url_event("/v1/models"))
    assert delivery.status == 200
"""

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

ROOT = "/2018-06-01/runtime"
NULS = bytes(8)


@dataclass
class Delivery:
    """What came of one event. Times are seconds since the event was handed out."""

    event: object
    id: str
    timeout: float
    handed_out: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    ended: float = 0.0
    polled: float = 0.0  # when the next event was asked for
    over: asyncio.Event = field(default_factory=asyncio.Event)
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    lost: bool = False  # the connection ended before the response did

    @property
    def streamed(self) -> bool:
        return self.headers.get("lambda-runtime-function-response-mode") == "streaming"

    @property
    def raw(self) -> bytes:
        return b"".join(data for _, data in self.chunks)

    @property
    def answer(self) -> dict[str, Any]:
        """The prelude of a stream, the whole JSON of a buffered response."""
        value: dict[str, Any] = json.loads(self.raw.partition(NULS)[0] if self.streamed else self.raw)
        return value

    @property
    def status(self) -> int:
        return int(self.answer["statusCode"])

    @property
    def body(self) -> bytes:
        if self.streamed:
            return self.raw.partition(NULS)[2]
        body: str = self.answer["body"]
        return base64.b64decode(body) if self.answer["isBase64Encoded"] else body.encode()

    def header(self, name: str) -> str | None:
        answer = self.answer
        several = {key: values[-1] for key, values in answer.get("multiValueHeaders", {}).items()}
        found: str | None = {**several, **answer.get("headers", {})}.get(name)
        return found

    @property
    def cookies(self) -> list[str]:
        """In whatever way the front door of the event wants them."""
        answer = self.answer
        named = [value for key, value in answer.get("headers", {}).items() if key.lower() == "set-cookie"]
        return [*answer.get("cookies", []), *answer.get("multiValueHeaders", {}).get("set-cookie", []), *named]

    @property
    def body_chunks(self) -> list[tuple[float, bytes]]:
        """Without the prelude, which comes as a chunk of its own."""
        return [(at, data) for at, data in self.chunks if not data.endswith(NULS)]

    @property
    def failure(self) -> dict[str, Any] | None:
        """The JSON in the trailers."""
        encoded = self.trailers.get("lambda-runtime-function-error-body")
        return json.loads(base64.b64decode(encoded)) if encoded else None


class Emulator:
    """One function; each runtime that polls is an environment. `restored` holds back snapshots until it is set."""

    def __init__(self) -> None:
        self.waiting: deque[Delivery] = deque()
        self.under_way: dict[str, Delivery] = {}
        self.last: Delivery | None = None
        self.news = asyncio.Event()
        self.polled = asyncio.Event()
        self.polls = 0
        self.restored = asyncio.Event()
        self.restore_asked = asyncio.Event()
        self.init_error: dict[str, Any] | None = None
        self.restore_error: dict[str, Any] | None = None
        self.said: dict[str, str] = {}
        self.count = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=2**26)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.server.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def environment(self, **values: str) -> dict[str, str]:
        return {"AWS_LAMBDA_RUNTIME_API": self.address, **values}

    def send(self, event: object, *, timeout: float = 30.0) -> Delivery:
        """Hand an event to the next runtime that polls."""
        self.count += 1
        delivery = Delivery(event, f"8476a536-e9f4-11e8-9739-{self.count:012d}", timeout)
        self.waiting.append(delivery)
        self.news.set()
        return delivery

    async def invoke(self, event: object, *, timeout: float = 30.0) -> Delivery:
        """The event, answered."""
        delivery = self.send(event, timeout=timeout)
        async with asyncio.timeout(timeout + 30):
            await delivery.over.wait()
        return delivery

    async def idle(self, within: float = 30.0) -> None:
        """Until a runtime has asked for an event and there is none."""
        async with asyncio.timeout(within):
            while not (self.polled.is_set() and not self.waiting):
                await asyncio.sleep(0.002)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        delivery: Delivery | None = None
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                method, path, _ = head[0].split(" ")
                headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in head[1:])}
                parts = path.removeprefix(ROOT).split("/")[1:]
                delivery = self.under_way.get(parts[1]) if parts[0] == "invocation" and len(parts) == 3 else None
                status, fields, body = await self.answer(method, parts, headers, reader, delivery)
                lines = [f"HTTP/1.1 {status} Said", *(f"{key}: {value}" for key, value in fields.items())]
                writer.write("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            if delivery is not None and not delivery.over.is_set():
                delivery.lost = True
                delivery.over.set()
        except asyncio.CancelledError:
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def answer(
        self,
        method: str,
        parts: list[str],
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        delivery: Delivery | None,
    ) -> tuple[int, dict[str, str], bytes]:
        if (method, parts) == ("GET", ["invocation", "next"]):
            return await self.next()
        if (method, parts) == ("GET", ["restore", "next"]):
            self.restore_asked.set()
            await self.restored.wait()
            return 200, {}, b""
        if parts in (["init", "error"], ["restore", "error"]):
            said = json.loads(await reader.readexactly(int(headers["content-length"])))
            if parts[0] == "init":
                self.init_error = said
            else:
                self.restore_error = said
            self.said = headers
            return 202, {}, b"{}"
        if delivery is None or delivery.over.is_set():
            await self.rest(reader, headers)
            return 403, {}, b'{"errorType":"InvalidStateTransition"}'
        delivery.headers = headers
        if parts[2] == "error":
            delivery.error = json.loads(await self.rest(reader, headers))
        elif headers.get("transfer-encoding") == "chunked":
            await self.chunks(reader, delivery)
        else:
            body = await self.rest(reader, headers)
            if len(body) > 6 * 1024 * 1024 + 100:
                return 413, {}, b'{"errorType":"RequestEntityTooLarge"}'
            delivery.chunks.append((time.monotonic() - delivery.handed_out, body))
        delivery.ended = time.monotonic() - delivery.handed_out
        delivery.over.set()
        return 202, {}, b'{"status":"OK"}'

    async def rest(self, reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
        return await reader.readexactly(int(headers.get("content-length", "0")))

    async def chunks(self, reader: asyncio.StreamReader, delivery: Delivery) -> None:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            delivery.chunks.append((time.monotonic() - delivery.handed_out, data))
            if not data.endswith(NULS):
                delivery.begun.set()
        announced = [name.strip().lower() for name in delivery.headers.get("trailer", "").split(",")]
        while (line := (await reader.readuntil(b"\r\n")).decode().strip()) != "":
            name, _, value = line.partition(": ")
            assert name.lower() in announced, f"{name} was not announced as a trailer"
            delivery.trailers[name.lower()] = value

    async def next(self) -> tuple[int, dict[str, str], bytes]:
        self.polls += 1
        self.polled.set()
        if self.last is not None:
            self.last.polled = time.monotonic() - self.last.handed_out
        while not self.waiting:
            self.news.clear()
            await self.news.wait()
        delivery = self.last = self.waiting.popleft()
        self.polled.clear()
        self.under_way[delivery.id] = delivery
        delivery.handed_out = time.monotonic()
        fields = {
            "Lambda-Runtime-Aws-Request-Id": delivery.id,
            "Lambda-Runtime-Deadline-Ms": str(int((self.now() + delivery.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:123456789012:function:gateway",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
            "Lambda-Runtime-Invocation-Id": f"attempt-{delivery.id}",
            "Content-Type": "application/json",
        }
        return 200, fields, json.dumps(delivery.event).encode()

    def now(self) -> float:
        """Lambda's clock; a test may move it along with the function's own."""
        return time.time()
