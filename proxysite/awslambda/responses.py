"""What becomes of an ASGI application's messages: a stream with a prelude, or a response that is kept whole."""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from proxysite.awslambda.runtime_api import Failure, Stream

Message = dict[str, Any]
Headers = list[tuple[str, str]]

PRELUDE_END = bytes(8)
# They speak for a connection that is not there.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
WITHOUT_BODY = frozenset({204, 304})


class Unfinished(Exception):
    """The application returned, or the time was up, before its response was complete."""


class Answer(ABC):
    """The state of one response, whatever becomes of it; `complete` is set once nothing more can be sent."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.status = 0
        self.headers: Headers = []
        self.begun = False  # bytes are on their way to the client: no other response can take this one's place
        self.complete = asyncio.Event()
        self.failure: Failure | None = None

    @property
    def is_event_stream(self) -> bool:
        return any(name == "content-type" and value.startswith("text/event-stream") for name, value in self.headers)

    def failed(self, kind: str, message: str) -> None:
        """Called by the application: the response ends properly, and yet Lambda is to count an error."""
        body = json.dumps({"errorType": kind, "errorMessage": message}).encode()
        self.failure = Failure(f"Function.{kind}", body)

    def start(self, message: Message) -> None:
        if self.begun:
            raise RuntimeError("the application began a second response")
        self.status = message["status"]
        self.headers = joined((name.decode("latin-1").lower(), value) for name, value in message.get("headers", ()))

    def may_have_body(self) -> bool:
        return self.method != "HEAD" and self.status not in WITHOUT_BODY

    @abstractmethod
    async def send(self, message: Message) -> None:
        """The `send` that the application is given."""


class Streamed(Answer):
    """Chunk by chunk to the Runtime API. `multi_value`: cookies as API Gateway wants them."""

    def __init__(self, method: str, begin: Callable[[bytes], Awaitable[Stream]], *, multi_value: bool) -> None:
        super().__init__(method)
        self._begin = begin
        self._multi_value = multi_value
        self._stream: Stream | None = None

    async def send(self, message: Message) -> None:
        """As ASGI has it: what is sent after the connection was lost is dropped without a word."""
        if self.complete.is_set():
            return
        if message["type"] == "http.response.start":
            self.start(message)
        elif message["type"] == "http.response.body":
            last = not message.get("more_body", False)
            try:
                await self._write(message.get("body", b""), last=last)
                if last:
                    await self.end()
            except ConnectionError:
                self.complete.set()

    async def end(self, failure: Failure | None = None, farewell: bytes = b"") -> None:
        """End the stream, once; `farewell` are the last bytes of one that breaks off. Raises ConnectionError."""
        if self._stream is None or self.complete.is_set():
            return
        try:
            await self._stream.write(farewell)
        finally:
            self.complete.set()
        await self._stream.end(failure or self.failure)

    async def _write(self, body: bytes, *, last: bool) -> None:
        body = body if self.may_have_body() else b""
        if self._stream is None:
            if last and not body and self.status in REDIRECTS and self.method != "HEAD":
                # Some front doors wait for ever for the end of a redirect that is empty.
                body = b"\n"
                self.headers = [*((n, v) for n, v in self.headers if n != "content-length"), ("content-length", "1")]
            self.begun = True
            self._stream = await self._begin(prelude(self.status, self.headers, multi_value=self._multi_value))
        await self._stream.write(body)


class Collected(Answer):
    """Kept until it is whole."""

    def __init__(self, method: str) -> None:
        super().__init__(method)
        self._parts: list[bytes] = []

    @property
    def body(self) -> bytes:
        return b"".join(self._parts)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start(message)
            self._parts.clear()
        elif message["type"] == "http.response.body":
            if self.may_have_body():
                self._parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                self.complete.set()


def joined(fields: Iterable[tuple[str, bytes]]) -> Headers:
    """One field a name, values joined as RFC 9110 section 5.3 has it; cookies stay apart, hop-by-hop fields go."""
    found: dict[str, list[str]] = {}
    for name, value in fields:
        if name not in HOP_BY_HOP:
            found.setdefault(name, []).append(value.decode("latin-1"))
    cookies = [("set-cookie", value) for value in found.pop("set-cookie", [])]
    return [*((name, ", ".join(values)) for name, values in found.items()), *cookies]


def prelude(status: int, headers: Headers, *, multi_value: bool) -> bytes:
    """JSON and eight NULs, which JSON cannot hold."""
    value: dict[str, Any] = {"statusCode": status, "headers": {n: v for n, v in headers if n != "set-cookie"}}
    cookies = [value for name, value in headers if name == "set-cookie"]
    if cookies and multi_value:
        value["multiValueHeaders"] = {"set-cookie": cookies}
    elif cookies:
        value["cookies"] = cookies
    return json.dumps(value).encode() + PRELUDE_END
