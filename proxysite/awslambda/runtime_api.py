"""The Runtime API of AWS Lambda, as its client sees it: the next invocation, its response or error.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import asyncio
import base64
import json
import time
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec

ROOT = "/2018-06-01/runtime"
BUFFER = 1024 * 1024  # bytes that are read ahead of an event of up to 6 MB
INTEGRATION = "application/vnd.awslambda.http-integration-response"
ERROR_TYPE, ERROR_BODY = "Lambda-Runtime-Function-Error-Type", "Lambda-Runtime-Function-Error-Body"
MESSAGE_CHARS = 2000


class RuntimeGone(Exception):
    """The Runtime API cannot be used any more: the process is to end, and Lambda starts another."""


class ResponseTooLarge(Exception):
    """The buffered response is larger than Lambda takes (6 MB)."""


class Failure(msgspec.Struct, frozen=True):
    """What Lambda is told of an error: a type such as `Function.ValueError`, and a JSON object."""

    kind: str
    body: bytes

    @classmethod
    def of(cls, exc: BaseException, *, category: str = "Function") -> "Failure":
        value = {
            "errorType": type(exc).__name__,
            "errorMessage": str(exc)[:MESSAGE_CHARS],
            "stackTrace": traceback.format_tb(exc.__traceback__)[-20:],
        }
        return cls(f"{category}.{type(exc).__name__}", json.dumps(value).encode())


class Invocation(msgspec.Struct, frozen=True):
    """One attempt at one event."""

    id: str
    attempt: str  # "" where the API does not number attempts; else it is said again with the response
    deadline: float  # unix seconds at which Lambda kills the environment
    trace: str
    body: bytes

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.time()

    def fields(self) -> dict[str, str]:
        return {"Lambda-Runtime-Invocation-Id": self.attempt} if self.attempt else {}


class RuntimeAPI:
    """One loop's way to the API, on a connection that stays open between the calls."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._wire: Wire | None = None

    async def next(self) -> Invocation:
        """Waits, frozen for the most part, until there is an event. Raises RuntimeGone."""
        status, fields, body = await self._call("GET", "/invocation/next")
        if status != 200:
            raise RuntimeGone(f"the Runtime API answered {status} to the poll for an event")
        return Invocation(
            id=fields["lambda-runtime-aws-request-id"],
            attempt=fields.get("lambda-runtime-invocation-id", ""),
            deadline=int(fields["lambda-runtime-deadline-ms"]) / 1000,
            trace=fields.get("lambda-runtime-trace-id", ""),
            body=body,
        )

    async def respond(self, invocation: Invocation, body: bytes) -> None:
        """The whole response as JSON. Raises ResponseTooLarge: then an error may still be told."""
        headers = {"Content-Type": "application/json", **invocation.fields()}
        status, _, _ = await self._call("POST", f"/invocation/{invocation.id}/response", body, headers)
        if status == 413:
            raise ResponseTooLarge("the response is larger than Lambda takes; a streamed one may have 200 MB")
        _check(status, "response")

    async def fail(self, invocation: Invocation, failure: Failure) -> None:
        """Only before a response has begun; a stream carries its failure in its trailers."""
        status = await self._failed(f"/invocation/{invocation.id}/error", failure, invocation.fields())
        _check(status, "error")

    async def init_failed(self, failure: Failure) -> None:
        await self._failed("/init/error", failure, {})

    async def restored(self) -> None:
        """Tell Lambda to take its snapshot; returns in the environment that was made from it."""
        status, _, _ = await self._call("GET", "/restore/next")
        self.close()
        if status != 200:
            raise RuntimeGone(f"the Runtime API answered {status} to the wait for a restore")

    async def restore_failed(self, failure: Failure) -> None:
        await self._failed("/restore/error", failure, {})

    async def stream(self, invocation: Invocation, prelude: bytes) -> "Stream":
        """Begin a response that is sent while it is made, on a connection of its own."""
        wire = await Wire.open(self.address)
        headers = {
            "Content-Type": INTEGRATION,
            "Lambda-Runtime-Function-Response-Mode": "streaming",
            "Transfer-Encoding": "chunked",
            "Trailer": f"{ERROR_TYPE}, {ERROR_BODY}",
            **invocation.fields(),
        }
        wire.write(_head("POST", f"/invocation/{invocation.id}/response", self.address, headers) + _chunk(prelude))
        return Stream(wire)

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _failed(self, path: str, failure: Failure, fields: Mapping[str, str]) -> int:
        headers = {"Content-Type": "application/json", ERROR_TYPE: failure.kind, **fields}
        status, _, _ = await self._call("POST", path, failure.body, headers)
        return status

    async def _call(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        fields = dict(headers or {})
        if method == "POST":
            fields["Content-Length"] = str(len(body))
        data = _head(method, path, self.address, fields) + body
        kept = self._wire is not None
        try:
            return await self._exchange(data)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            self.close()
            # A kept connection may have been closed while the environment lay frozen; a poll may be made again.
            if not kept or method != "GET":
                raise RuntimeGone("the connection to the Runtime API is lost") from exc
        try:
            return await self._exchange(data)
        except (ConnectionError, asyncio.IncompleteReadError) as exc:
            raise RuntimeGone("the Runtime API cannot be reached") from exc

    async def _exchange(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._wire is None or self._wire.reader.at_eof():
            self._wire = await Wire.open(self.address)
        self._wire.write(data)
        await self._wire.writer.drain()
        return await self._wire.answer()


class Stream:
    """A response under way. Every write is one chunk; an empty one would be the end, so it is left out."""

    def __init__(self, wire: "Wire") -> None:
        self._wire = wire

    async def write(self, data: bytes) -> None:
        """Waits while Lambda does not take more. Raises ConnectionError where it takes nothing any more."""
        if data:
            self._wire.write(_chunk(data))
            await self._wire.writer.drain()

    async def end(self, failure: Failure | None = None) -> None:
        """The last chunk, with the failure in its trailers; the connection is closed. Raises ConnectionError."""
        tail = b"0\r\n"
        if failure is not None:
            encoded = base64.b64encode(failure.body).decode()
            tail += f"{ERROR_TYPE}: {failure.kind}\r\n{ERROR_BODY}: {encoded}\r\n".encode()
        try:
            self._wire.write(tail + b"\r\n")
            await self._wire.writer.drain()
            status, _, _ = await self._wire.answer()
        except asyncio.IncompleteReadError as exc:
            raise ConnectionResetError("the Runtime API did not acknowledge the response") from exc
        finally:
            self._wire.close()
        _check(status, "response")


class Wire:
    """One HTTP/1.1 connection to the API, which speaks no more of HTTP than lengths and chunks."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.write = writer.write
        self.close = writer.close

    @classmethod
    async def open(cls, address: str) -> "Wire":
        host, _, port = address.partition(":")
        return cls(*await asyncio.open_connection(host, int(port or 80), limit=BUFFER))

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, fields by their name in lower case, body. Raises IncompleteReadError."""
        first, *lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if fields.get("transfer-encoding", "").lower() == "chunked":
            body = await self._chunks()
        else:
            body = await self.reader.readexactly(int(fields.get("content-length", "0")))
        return int(first.split(" ")[1]), fields, body

    async def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := int((await self._until(b"\r\n")).split(b";")[0], 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        while await self._until(b"\r\n") != b"\r\n":
            pass  # trailers
        return b"".join(parts)

    async def _until(self, border: bytes) -> bytes:
        return await self.reader.readuntil(border)


def _head(method: str, path: str, host: str, headers: Mapping[str, Any]) -> bytes:
    lines = [f"{method} {ROOT}{path} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(data), data)


def _check(status: int, what: str) -> None:
    """500 is the API's word for an environment that is beyond repair."""
    if status >= 500:
        raise RuntimeGone(f"the Runtime API answered {status} to a {what}")
