"""A request's body that is written piece by piece, beside the wait for the answer: neither side holds it whole."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

import httpx


class Source(Protocol):
    """Where such a body comes from. What `pieces` raises ends the call, and is what the caller gets."""

    @property
    def length(self) -> int | None:
        """All bytes of it; None: nobody knows yet, and it is sent chunked."""

    @property
    def restarts(self) -> bool:
        """Whether `pieces` may be asked again, and begins at the beginning."""

    def pieces(self) -> AsyncGenerator[bytes, None]: ...


class Poured(httpx.AsyncByteStream):
    """A source as httpx hands a body on."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.source.pieces()


class Sink(Protocol):
    """The connection that is written to."""

    def write(self, data: bytes) -> bool:
        """False: it is lost, and whoever reads from it is told why."""

    async def drained(self) -> None:
        """Until little enough lies unsent. Raises ConnectionError."""

    def fail(self, exc: BaseException) -> None:
        """Drop it; whoever reads from it gets `exc`."""


class WrongLength(Exception):
    """The source gave more or fewer bytes than it had said: what follows would be taken for another request."""


class Pouring:
    """One body under way. `whole` once its last byte has been written."""

    def __init__(self, sink: Sink, source: Source) -> None:
        self.whole = False
        self._sink = sink
        self._source = source
        self._task = asyncio.ensure_future(self._pour())

    def stop(self) -> None:
        """Write no more; the connection then serves no other request. Never waits."""
        self._task.cancel()

    async def _pour(self) -> None:
        sink, left = self._sink, self._source.length
        chunked = left is None
        try:
            async with aclosing(self._source.pieces()) as pieces:
                async for piece in pieces:
                    if not piece:
                        continue
                    if left is not None and (left := left - len(piece)) < 0:
                        raise WrongLength
                    if not sink.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece):
                        return
                    await sink.drained()
            if left:
                raise WrongLength
            self.whole = sink.write(b"0\r\n\r\n") if chunked else True
        except ConnectionError:
            return  # the provider may have answered before it hung up: the reader finds out
        except Exception as exc:
            sink.fail(exc)
