"""The client's end of a connection to a provider: aiohttp's protocol with caps, and a short way for what it reads."""

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import StreamReader

HEAD_LIMIT = 64 * 1024  # bytes of status line and header fields
MAX_FIELDS = 256
BUFFER = 64 * 1024  # bytes; reading from the socket stops at twice that

Sink = Callable[[bytes], bool]  # takes the bytes and says so, or leaves them all


class HeadTooLarge(BadHttpMessage):
    """The status line and header fields are longer than HEAD_LIMIT."""

    def __init__(self) -> None:
        super().__init__("the header block is too large")


class Pipe(StreamReader):
    """aiohttp's reader of a body, which hands on what comes while its reader waits, past the reader's task.

    The parser makes the readers, so this class is put in the place of theirs. Where the chunks of a chunked body end
    is kept for nobody.
    """

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        wire = cast("Wire", self._protocol)
        # A reader that waits has had all that came before.
        if wire.sink is not None and self._waiter is not None:
            wire.batch.append(data)
            return False
        return super().feed_data(data, size)

    def hand_on(self, batch: list[bytes], sink: Sink) -> None:
        """What one read of the socket has brought, in one piece: to the sink, or else to the reader."""
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        batch.clear()
        if not sink(data):
            super().feed_data(data)

    def feed_eof(self) -> None:
        self.flush()
        super().feed_eof()

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        self.flush()
        super().set_exception(exc) if exc_cause is None else super().set_exception(exc, exc_cause)

    def flush(self) -> None:
        wire = cast("Wire", self._protocol)
        if wire.batch and wire.sink is not None:
            self.hand_on(wire.batch, wire.sink)

    def begin_http_chunk_receiving(self) -> None:
        pass

    def end_http_chunk_receiving(self) -> None:
        pass


class Wire(ResponseHandler):
    """aiohttp's client protocol with a cap over the whole header block, and the memory of having been used before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = False
        self.received = 0  # bytes since the last request was written
        self.awaits_head = False
        self.sink: Sink | None = None  # of the body that is being read
        self.batch: list[bytes] = []  # what this read of the socket has brought of it so far

    def expect(self, method: str) -> None:
        """Make ready for the answer to a request of that method."""
        self.used = True
        self.received = 0
        self.awaits_head = True
        self.sink = None
        self.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=False,
            read_bufsize=BUFFER,
            max_line_size=HEAD_LIMIT,
            max_field_size=HEAD_LIMIT,
            max_headers=MAX_FIELDS,
        )

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)
        if self.batch:
            cast("Pipe", self._payload).flush()
        if self.awaits_head and self.received > HEAD_LIMIT and not len(self) and self.exception() is None:
            self.abort()
            self.set_exception(HeadTooLarge())

    def connection_lost(self, exc: BaseException | None) -> None:
        # For aiohttp a reset, too, is the regular end of a body without length.
        if exc is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(ClientPayloadError())
        super().connection_lost(exc)

    def write(self, data: bytes) -> bool:
        """False where the connection is lost."""
        if self.transport is None:
            return False
        self.transport.write(data)
        return True

    async def drained(self) -> None:
        """Until what lies unsent is below the transport's mark. Raises ConnectionError."""
        await self._drain_helper()

    def fail(self, exc: BaseException) -> None:
        """Drop the connection; whoever reads from it gets `exc`."""
        payload = self._payload
        self.abort()
        self.set_exception(exc)
        if payload is not None and not payload.is_eof():
            payload.set_exception(exc)

    async def head(self) -> tuple[RawResponseMessage, StreamReader]:
        """The final head and its body; 1xx answers before it are passed over."""
        while True:
            message, payload = await self.read()
            if message.code >= 200:
                break
            if message.code == 101 or self.received > HEAD_LIMIT:
                raise BadHttpMessage("no final answer")
        self.awaits_head = False
        if self.received > HEAD_LIMIT and sum(len(k) + len(v) + 4 for k, v in message.raw_headers) > HEAD_LIMIT:
            raise HeadTooLarge
        return message, payload
