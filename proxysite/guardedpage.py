"""A page for machines: answered before Django, and to everybody but whom it is for as if it were not there."""

import hmac
from collections.abc import Sequence
from typing import ClassVar

from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.parsing import heads
from providers import callers
from proxysite.refusals import Receive, Scope, Send, answer


class GuardedPage:
    """`token` opens it as a bearer, `networks` by the caller's address: either is enough, and neither closes it."""

    path: ClassVar[str]
    content_type: ClassVar[str]

    def __init__(self, token: str, networks: Sequence[str]) -> None:
        self.token = token.encode()
        self.networks = tuple(networks)

    async def body(self) -> bytes:
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: GatewayError | None = None
        if not self.opens(scope):
            error = NotFound(f"Invalid URL ({scope['method']} {self.path})")
        elif scope["method"] not in ("GET", "HEAD"):
            error = MethodNotAllowed("Only GET and HEAD.")
        if error is not None:
            await answer(error, send)
            return
        body = await self.body()
        headers = [
            (b"content-type", self.content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def opens(self, scope: Scope) -> bool:
        if self.token and hmac.compare_digest(_bearer(scope), self.token):
            return True
        return bool(self.networks) and callers.is_within(heads.caller(scope), self.networks)


def _bearer(scope: Scope) -> bytes:
    value: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
