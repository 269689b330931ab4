"""Reading a request's body: under a cap, a deadline and a least speed, and on the process's memory account."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.errors import BadRequest, BodyTimeout, BodyTooLarge
from gateway.receipts import Call

Receive = Callable[[], Awaitable[dict[str, Any]]]

MAX_JSON = 10 * 1024 * 1024
GRACE = 10.0  # seconds before the least speed counts
LEAST_SPEED = 10 * 1024  # bytes a second
TOTAL = 300.0


class ClientGone(Exception):
    """The client left before its body was complete."""


def declared_length(value: bytes | None) -> int:
    """Content-Length, 0 where there is none. Raises BodyTooLarge before a byte has been read."""
    if value is None:
        return 0
    if not value.isdigit():
        raise BadRequest("Content-Length is not a number.")
    length = int(value[:20])
    if length > MAX_JSON:
        raise BodyTooLarge(f"The body is larger than {MAX_JSON} bytes.")
    return length


async def read(call: Call, receive: Receive) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyTimeout, Overloaded or ClientGone."""
    message = await _within(receive, GRACE)
    body = message.get("body", b"")
    if message.get("more_body"):
        return await _read_on(call, receive, body)
    if len(body) > MAX_JSON:
        raise BodyTooLarge(f"The body is larger than {MAX_JSON} bytes.")
    call.take(len(body))
    return bytes(body)


async def _read_on(call: Call, receive: Receive, first: bytes) -> bytes:
    parts, size = [first], len(first)
    call.take(size)
    clock = call.process.clock
    begun = clock()
    while True:
        spent = clock() - begun
        # The slowest client that is borne: GRACE seconds of nothing, then LEAST_SPEED on the whole.
        left = min(GRACE * 2 + size / LEAST_SPEED, TOTAL) - spent
        message = await _within(receive, left)
        data = message.get("body", b"")
        size += len(data)
        if size > MAX_JSON:
            raise BodyTooLarge(f"The body is larger than {MAX_JSON} bytes.")
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
        raise ClientGone
    return message
