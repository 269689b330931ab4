"""One call to a provider: a slot, the exchange, the decoded body; every failure leaves as one of gateway.errors.

This is the border where foreign errors end: nothing of httpx, aiohttp, ssl or the socket passes it.
"""

import asyncio
import ssl
import zlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, Protocol, overload

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import (
    GatewayError,
    Overloaded,
    UpstreamBroken,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.pouring import Poured, Source
from gateway.upstream.tls import tls_context
from gateway.upstream.transport import (
    RAW_HEADERS,
    AddressNotAllowed,
    AiohttpTransport,
    Body,
    Whole,
)
from gateway.upstream.wire import HeadTooLarge
from providers.addresses import AddressPolicy
from providers.targets import Timeouts

ANSWER_LIMIT = 32 * 1024 * 1024  # bytes of a whole answer, decoded
PIECE = 64 * 1024  # bytes that are decompressed in one go
FREE_EXPANSION = 1024 * 1024  # bytes that may come out of any input
MAX_RATIO = 100  # beyond that; JSON and event streams stay below it, made-up bombs reach a thousand
MAX_URLS = 1024
ECHO_HOST = "echo.invalid"

# What may come out of a transport for reasons of the network or of the other side; all else is a fault of ours.
FOREIGN = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.StreamError,
    aiohttp.ClientError,
    HttpProcessingError,
    OSError,  # ssl.SSLError, socket.gaierror and TimeoutError are OSErrors
    EOFError,
    UnicodeError,
)
# Nothing was written, whatever the transport says.
NEVER_SENT = (
    httpx.ConnectError,
    httpx.UnsupportedProtocol,
    httpx.ProxyError,
    httpx.LocalProtocolError,
    httpx.InvalidURL,
    aiohttp.ClientConnectorError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    UnicodeError,
)
# Something was written, also where the transport does not say so (httpx.MockTransport).
MEANS_SENT = (
    httpx.HTTPError,
    httpx.StreamError,
    HttpProcessingError,
    aiohttp.ClientResponseError,
    aiohttp.ClientPayloadError,
    aiohttp.ServerDisconnectedError,
)
TIMEOUTS = (httpx.TimeoutException, TimeoutError)


def translated(exc: BaseException, *, sent: bool) -> GatewayError:
    """The gateway's error for a foreign one; `sent` tells whether bytes of the request had been written by then."""
    if isinstance(exc, httpx.PoolTimeout):
        return _no_slot()
    if isinstance(exc, TIMEOUTS):
        sent = sent or isinstance(exc, (httpx.ReadTimeout, httpx.WriteTimeout, aiohttp.SocketTimeoutError))
        what = "did not answer in time." if sent else "could not be reached in time."
        return UpstreamTimeout(f"The provider {what}", sent=sent)
    if isinstance(exc, NEVER_SENT) or not (sent or isinstance(exc, MEANS_SENT)):
        return UpstreamUnreachable(_why_unreachable(exc), sent=False)
    return UpstreamBroken(_why_broken(exc), sent=True)


def _why_unreachable(exc: BaseException) -> str:
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, AddressNotAllowed):
        return "The provider's address is not one that may be called."
    if isinstance(cause, ssl.CertificateError):
        return "The provider's certificate is not valid."
    if isinstance(cause, ssl.SSLError):
        return "No secure connection to the provider could be made."
    if isinstance(exc, (aiohttp.ClientConnectorDNSError, UnicodeError)):
        return "The provider's host name could not be found."
    if isinstance(exc, (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, aiohttp.InvalidURL)):
        return "The request cannot be sent to this provider: its address or a header is not valid."
    return "The provider refused the connection or could not be reached."


def _why_broken(exc: BaseException) -> str:
    if isinstance(exc, HeadTooLarge):
        return "The provider's answer has too large a header block."
    if isinstance(exc, (HttpProcessingError, httpx.ProtocolError)):
        return "The provider's answer is not valid HTTP."
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "The provider's answer ended before it was complete."
    return "The provider closed the connection before its answer was complete."


def _no_slot() -> Overloaded:
    return Overloaded("All connections to providers are in use; try again.", code="upstream_pool_exhausted")


class Slots:
    """How many calls may be under way; whoever waits is served in order, and a slot is never lost to a cancellation."""

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    async def wait(self, seconds: float) -> None:
        """Take a slot that another call gives back; raises Overloaded after `seconds`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters[turn] = None
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as exc:
            self.waiters.pop(turn, None)
            if turn.done() and not turn.cancelled():
                self.give()  # the turn came in the same moment in which the wait was given up
            if isinstance(exc, TimeoutError):
                raise _no_slot() from None
            raise

    def give(self) -> None:
        """Hand a slot on."""
        while self.waiters:
            turn, _ = self.waiters.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class Fields:
    """Header fields by name, whatever its case; several of one name are joined by ", "."""

    __slots__ = ("_fields",)

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        fields: dict[str, str] = {}
        for name, value in raw:
            key = name.decode("latin-1").lower()
            text = value.decode("latin-1")
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
        self._fields = fields

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        return self._fields.get(name.lower(), default)

    def items(self) -> Iterable[tuple[str, str]]:
        """Names in lower case, in the order in which they came."""
        return self._fields.items()


class UpstreamReply:
    """A provider's answer: the head is there, the body comes as it is read. It holds a slot until it is closed."""

    __slots__ = ("_slots", "_stream", "headers", "status")

    def __init__(self, response: httpx.Response, slots: Slots) -> None:
        self.status = response.status_code
        raw = response.extensions.get(RAW_HEADERS)
        self.headers = Fields(response.headers.raw if raw is None else raw)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self._stream = response.stream
        self._slots: Slots | None = slots

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, decoded, piece by piece as it comes; raises UpstreamBroken, and closes at its end or failure."""
        stream = self._stream
        try:
            encoding = self.headers.get("content-encoding")
            if encoding is None or encoding == "identity":
                async for chunk in stream:
                    yield chunk
            else:
                inflater = Inflater(encoding)
                async for chunk in stream:
                    for piece in inflater.pieces(chunk):
                        yield piece
                inflater.finish()
        except FOREIGN as exc:
            raise translated(exc, sent=True) from exc
        finally:
            await self.aclose()

    def pipe(self, sink: Callable[[bytes], bool]) -> None:
        """Let `sink` take bytes as they come, past whoever waits in `chunks`: all of them, or none by False."""
        if isinstance(self._stream, Body) and self.headers.get("content-encoding") in (None, "identity"):
            self._stream.pipe(sink)

    async def read(self, limit: int = ANSWER_LIMIT) -> bytes:
        """The whole body, decoded; raises UpstreamInvalid above `limit` bytes."""
        parts: list[bytes] = []
        size = 0
        try:
            if int(self.headers.get("content-length", "0")) > limit:
                raise _too_large(limit)
            async for chunk in self.chunks():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                parts.append(chunk)
        except BaseException:
            parts.clear()  # the traceback would keep them
            raise
        finally:
            await self.aclose()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def aclose(self) -> None:
        """Give back the slot and the connection, or drop it where the body was not read to its end. Never waits."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give()
            await self._stream.aclose()


class Inflater:
    """gzip or deflate (RFC 9110 section 8.4.1), undone in pieces of at most 64 KiB and only up to a ratio."""

    def __init__(self, encoding: str) -> None:
        """Raises UpstreamInvalid for another encoding, or more than one on top of the other."""
        if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
            raise UpstreamInvalid("The provider's answer is compressed in a way that was not asked for.", sent=True)
        self.taken = self.given = 0
        self._zlib: zlib._Decompress | None = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What can be decoded by now; raises UpstreamBroken for what is not compressed data, or expands too much."""
        self.taken += len(data)
        piece = b""
        # A full piece may have left output inside zlib, though all input is taken.
        while data or len(piece) == PIECE:
            if self._zlib is None:
                if not data:
                    return
                # gzip and zlib begin with these bytes; some servers send "deflate" without zlib's wrapper.
                wrapped = data[0] == 0x1F or data[0] & 0x0F == 8
                self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 32 if wrapped else -zlib.MAX_WBITS)
            try:
                piece = self._zlib.decompress(data, PIECE)
            except zlib.error as exc:
                raise UpstreamBroken("The provider's answer is not compressed as it says.", sent=True) from exc
            self.given += len(piece)
            if self.given > FREE_EXPANSION and self.given > self.taken * MAX_RATIO:
                raise UpstreamBroken("The provider's answer expands beyond all measure.", sent=True)
            if piece:
                yield piece
            if self._zlib.eof:
                data, self._zlib = self._zlib.unused_data, None  # another member may follow
            else:
                data = self._zlib.unconsumed_tail

    def finish(self) -> None:
        """Raises UpstreamBroken where the compressed data has no end."""
        if self._zlib is not None:
            raise UpstreamBroken("The provider's answer ended before it was complete.", sent=True)


class Sending(Protocol):
    """What a caller keeps of one call, for when he is cancelled in it."""

    sent: bool


class Upstream:
    """All calls to providers of one event loop. `limit` calls may be under way; `transport` stands for the network."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        limit: int = 2000,
        tls: Callable[[], ssl.SSLContext] = tls_context,
    ) -> None:
        self.slots = Slots(limit)
        self._transport = transport or AiohttpTransport(policy, tls=tls)
        self._urls: dict[str, tuple[httpx.URL, httpx.AsyncBaseTransport]] = {}

    async def send(
        self,
        url: str,
        headers: list[tuple[str, str]],
        body: bytes | Source,
        timeouts: Timeouts,
        *,
        method: str = "POST",
        sending: "Sending | None" = None,
        once: bool = False,
    ) -> UpstreamReply:
        """The answer's head; a body that is no bytes is written as it comes, and may be under way when that is there.

        Only waiting for a slot and connecting have deadlines here; the caller sets the others.

        An address that is met `once`, since ids stand in it, is not remembered.

        Raises Overloaded, UpstreamUnreachable, UpstreamTimeout and UpstreamBroken, each with `sent`. Cancelled at any
        moment it closes the connection, gives back the slot and says on `sending` whether a byte had been written.
        """
        if self.slots.free:
            self.slots.free -= 1
        else:
            await self.slots.wait(timeouts.pool)
        extensions: dict[str, Any] = {}
        try:
            target, transport = self._urls.get(url) or self._parsed(url, keep=not once)
            extensions["timeout"] = {"connect": timeouts.connect}
            stream = Whole(body) if isinstance(body, bytes) else Poured(body)
            request = httpx.Request(method, target, headers=headers, stream=stream, extensions=extensions)
            extensions = request.extensions
            return UpstreamReply(await transport.handle_async_request(request), self.slots)
        except BaseException as exc:
            self.slots.give()
            sent: bool = extensions.get("sent", False)
            if sending is not None:
                sending.sent = sent
            if isinstance(exc, FOREIGN):
                raise translated(exc, sent=sent) from exc
            raise

    @cached_property
    def _echo(self) -> httpx.AsyncBaseTransport:
        # Where no row names the built-in provider a start on Lambda goes without it.
        from gateway.echo.transport import EchoTransport

        return EchoTransport()

    def _parsed(self, url: str, *, keep: bool) -> tuple[httpx.URL, httpx.AsyncBaseTransport]:
        target = httpx.URL(url)
        found = target, self._echo if target.host == ECHO_HOST else self._transport
        if keep:
            if len(self._urls) >= MAX_URLS:
                self._urls.clear()
            self._urls[url] = found
        return found

    async def aclose(self) -> None:
        """Drop every connection, those in use too."""
        await self._transport.aclose()


def _too_large(limit: int) -> UpstreamInvalid:
    return UpstreamInvalid(f"The provider's answer is larger than {limit} bytes.", sent=True)
