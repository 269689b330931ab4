"""What the building itself answers, before or instead of an application: JSON in OpenAI's shape, each with an id."""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

from gateway.errors import BadRequest, GatewayError
from providers.ids import uuid7

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]


class HeadTooLarge(BadRequest):
    """https://www.rfc-editor.org/rfc/rfc6585#section-5"""

    status = 431
    code = "request_header_fields_too_large"


class HeadTimeout(BadRequest):
    status = 408
    code = "request_timeout"


def headers_of(error: GatewayError, body: bytes) -> list[Header]:
    """The answer's header fields: kind, length, request id, those of the error; the connection ends with it."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", b"req_" + uuid7().encode()),
        (b"connection", b"close"),
    ]
    headers.extend((name.encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items())
    return headers


def raw_answer(error: GatewayError, default_headers: Iterable[Header]) -> bytes:
    """The whole HTTP/1.1 answer as bytes, for a request that never became one."""
    body = error.json()
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()]
    lines.extend(b"%b: %b\r\n" % field for field in [*default_headers, *headers_of(error, body)])
    return b"".join([*lines, b"\r\n", body])


async def answer(error: GatewayError, send: Send, *, kind: str = "http.response") -> None:
    """The same through an ASGI `send`; `kind` is the family of messages that the scope wants."""
    body = error.json()
    await send({"type": f"{kind}.start", "status": error.status, "headers": headers_of(error, body)})
    await send({"type": f"{kind}.body", "body": body, "more_body": False})
