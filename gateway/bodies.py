"""Reading a request's body: under a cap, a deadline and a least speed; whole on the process's memory account, or as it
comes.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import BadRequest, BodyTimeout, BodyTooLarge, GatewayError, UnsupportedMedia
from gateway.parsing.fingerprints import Fingerprint
from gateway.receipts import Call

Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_JSON = 10 * 1024 * 1024
MAX_UPLOAD = 512 * 1024 * 1024
GRACE = 10.0  # seconds before the least speed counts
LEAST_SPEED = 10 * 1024  # bytes a second
TOTAL = 300.0
PLAIN = frozenset({b"", b"identity"})
ZLIB = frozenset({b"gzip", b"x-gzip", b"deflate"})


class ClientGone(GatewayError):
    """The client left before its body was complete; nobody is there to be told."""

    status = 499
    outcome = "client_cancelled"


def declared_length(value: bytes | None, cap: int = MAX_JSON) -> int | None:
    """Content-Length, None where there is none. Raises BodyTooLarge before a byte has been read."""
    if value is None:
        return None
    if not value.isdigit():
        raise BadRequest("Content-Length is not a number.")
    length = int(value[:20])
    if length > cap:
        raise too_large(cap)
    return length


def too_large(cap: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {cap} bytes.")


class Incoming:
    """A body that is read as it comes. `size` bytes have come; `ended` once that is all.

    The client's speed counts, and not that of whoever takes the body: time is what passes while the client is waited
    for.
    """

    def __init__(self, call: Call, receive: Receive, length: bytes | None, encoding: bytes = b"") -> None:
        """Raises BodyTooLarge for what the head says already, UnsupportedMedia where it is compressed."""
        if encoding not in PLAIN:
            raise UnsupportedMedia("Send an upload without Content-Encoding.")
        self.length = declared_length(length, MAX_UPLOAD)
        self.size = 0
        self.ended = False
        self.on_end: Callable[[], None] | None = None
        self.fingerprint: Fingerprint | None = None  # of what has come, where somebody wants to know
        self._call = call
        self._receive = receive
        self._waited = 0.0

    async def read(self) -> bytes:
        """What has come next, perhaps nothing. Raises BodyTooLarge, BodyTimeout or ClientGone."""
        clock, receipt = self._call.process.clock, self._call.receipt
        # While the client is waited for, nobody's silence is the provider's.
        waiting = receipt is not None and receipt.on_tick is None
        if receipt is not None and waiting:
            receipt.writing = True
        began = clock()
        try:
            message = await _within(self._receive, _allowed(self.size) - self._waited)
        finally:
            if receipt is not None and waiting:
                receipt.writing, receipt.heard = False, True
        self._waited += clock() - began
        data: bytes = message.get("body", b"")
        self.size += len(data)
        if self.size > MAX_UPLOAD:
            raise too_large(MAX_UPLOAD)
        if self.fingerprint is not None:
            self.fingerprint.feed(data)
        if not message.get("more_body"):
            self.ended = True
            if self.on_end is not None:
                self.on_end()
        return data


def _allowed(size: int) -> float:
    """The slowest client that is borne: GRACE seconds of nothing, then LEAST_SPEED on the whole."""
    return min(GRACE * 2 + size / LEAST_SPEED, TOTAL)


def decoded(call: Call, body: bytes, encoding: bytes) -> bytes:
    """The body without its compression, of which no more is undone than may be read.

    Raises UnsupportedMedia, BadRequest, BodyTooLarge and Overloaded.
    """
    check_encoding(encoding)
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # gzip or zlib, by its first bytes
    try:
        plain = inflater.decompress(body, MAX_JSON + 1)
    except zlib.error:
        raise BadRequest(f"The body is no {encoding.decode()}, as its Content-Encoding says.") from None
    if len(plain) > MAX_JSON:
        raise too_large(MAX_JSON)
    if not inflater.eof or inflater.unused_data:
        raise BadRequest("The compressed body is not whole, or something follows it.")
    call.take(len(plain))
    return plain


def check_encoding(encoding: bytes) -> None:
    """Raises UnsupportedMedia where it is one that is not undone here."""
    if encoding in ZLIB:
        return
    name = encoding[:40].decode("latin-1")
    raise UnsupportedMedia(
        f"Content-Encoding `{name}` is not taken here: send the body as it is, or JSON compressed with gzip.",
        headers={"accept-encoding": "gzip, deflate"},  # RFC 9110 section 12.5.3
    )


async def read(call: Call, receive: Receive, whole: bytes | None = None) -> bytes:
    """The body; `whole` is it where the server has it. Raises BodyTooLarge, BodyTimeout, Overloaded or ClientGone."""
    if whole is not None:
        if len(whole) > MAX_JSON:
            raise too_large(MAX_JSON)
        call.take(len(whole))
        return whole
    message = await _within(receive, GRACE)
    body = message.get("body", b"")
    if message.get("more_body"):
        return await _read_on(call, receive, body)
    if len(body) > MAX_JSON:
        raise too_large(MAX_JSON)
    call.take(len(body))
    return bytes(body)


async def _read_on(call: Call, receive: Receive, first: bytes) -> bytes:
    parts, size = [first], len(first)
    call.take(size)
    clock = call.process.clock
    begun = clock()
    while True:
        message = await _within(receive, _allowed(size) - (clock() - begun))
        data = message.get("body", b"")
        size += len(data)
        if size > MAX_JSON:
            raise too_large(MAX_JSON)
        call.take(len(data))
        parts.append(data)
        if not message.get("more_body"):
            return b"".join(parts)


async def _within(receive: Receive, seconds: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
    except TimeoutError:
        raise BodyTimeout("The body did not arrive in time.") from None
    if message["type"] == "http.disconnect":
        raise ClientGone("The client left before its body was complete.")
    return message
