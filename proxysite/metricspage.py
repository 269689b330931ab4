"""/metrics, for Prometheus: answered before Django, and to everybody but whom it is for as if it were not there."""

import asyncio
import hmac
from collections.abc import Callable, Sequence

from gateway import heads
from gateway.errors import GatewayError, MethodNotAllowed, NotFound
from gateway.metrics import exposition
from gateway.metrics.pages import Series
from providers import callers
from proxysite.refusals import Receive, Scope, Send, answer

PATH = "/metrics"


class MetricsPage:
    """`token` opens it as a bearer, `networks` by the caller's address: either is enough, and neither closes it."""

    def __init__(self, total: Callable[[], Series | None], token: str, networks: Sequence[str]) -> None:
        self.total = total
        self.token = token.encode()
        self.networks = tuple(networks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error: GatewayError | None = None
        if not self.opens(scope):
            error = NotFound(f"Invalid URL ({scope['method']} {PATH})")
        elif scope["method"] not in ("GET", "HEAD"):
            error = MethodNotAllowed("Only GET and HEAD.")
        if error is not None:
            await answer(error, send)
            return
        # In a thread: it reads the pages of all processes.
        body = await asyncio.to_thread(self.text)
        headers = [
            (b"content-type", exposition.CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def text(self) -> bytes:
        return exposition.text(self.total() or {})

    def opens(self, scope: Scope) -> bool:
        if self.token and hmac.compare_digest(_bearer(scope), self.token):
            return True
        return bool(self.networks) and callers.is_within(heads.caller(scope), self.networks)


def _bearer(scope: Scope) -> bytes:
    value: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, token = value.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""
