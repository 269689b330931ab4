"""Who answers what: probes here, Django's own pages by Django, everything else by the gateway; and the lifespan."""

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from gateway.errors import BodyTimeout, BodyTooLarge, NoWebSocket, Overloaded
from gateway.parsing import places
from providers.ids import uuid7
from proxysite import health
from proxysite.env import Problem, refusal
from proxysite.refusals import ASGIApp, Receive, Scope, Send, answer

# First segments of the paths that Django's stock handler serves, with its middleware.
DJANGO = frozenset({"admin", "static", "docs"})
PAGE_BYTES = 10 * 1024 * 1024
PAGE_SECONDS = 60.0
ALL_PAGES_BYTES = 64 * 1024 * 1024  # of the bodies of all pages at once: who sends them need not have signed in


class Engine(Protocol):
    """The background of this process; `gateway.engine.engine` is the real one."""

    @property
    def ready(self) -> bool: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def begin_drain(self) -> None: ...

    async def end_streams(self) -> None: ...


class Switchboard:
    """The one ASGI application (https://asgi.readthedocs.io/en/latest/specs/main.html).

    `problems` gives reasons not to start: the lifespan then fails with them as its message. Without a `database`,
    readiness does not ask one; without `metrics` or `status` there is no such page.
    """

    def __init__(
        self,
        *,
        django: ASGIApp,
        gateway: ASGIApp,
        engine: Engine,
        problems: Callable[[], Sequence[Problem]] = tuple,
        database: bool = True,
        metrics: ASGIApp | None = None,
        status: ASGIApp | None = None,
    ) -> None:
        self.django = django
        self.gateway = gateway
        self.engine = engine
        self.problems = problems
        self.metrics = metrics
        self.status = status
        self.readiness = health.Readiness() if database else None
        self.pages = Bodies(ALL_PAGES_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            path: str = scope["path"]
            first = path[1:].partition("/")[0]
            if first in DJANGO or path == "/":
                await self.page(scope, receive, send)
            elif path == "/healthz":
                await health.healthz(scope, receive, named(send))
            elif path == "/readyz":
                await health.readyz(scope, named(send), ready=self.engine.ready, readiness=self.readiness)
            elif path == "/metrics" and self.metrics is not None:
                await self.metrics(scope, receive, named(send))
            elif path == "/status" and self.status is not None:
                await self.status(scope, receive, named(send))
            else:
                await self.gateway(scope, receive, send)
        elif kind == "lifespan":
            await self.lifespan(scope, receive, send)
        elif kind == "websocket":
            await refuse_websocket(scope, receive, send)
        else:
            raise ValueError(f"This application knows no ASGI scope {kind!r}.")

    async def page(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Django reads a whole body before its view, without end: it gets one that is whole, or none."""
        send = named(send)
        with self.pages.one() as held:
            try:
                async with asyncio.timeout(PAGE_SECONDS):
                    body = await whole_body(receive, held)
            except TimeoutError:
                await answer(BodyTimeout(f"The body did not arrive within {PAGE_SECONDS:g} s."), send)
                return
            except (BodyTooLarge, Overloaded) as exc:
                await answer(exc, send)
                return
            if body is None:
                return
            pending: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> dict[str, Any]:
                return pending.pop() if pending else await receive()

            await self.django(scope, replay, send)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if problems := self.problems():
            await send({"type": "lifespan.startup.failed", "message": refusal(problems)})
            return
        try:
            await self.engine.start()
        except Exception as exc:
            reason = f"{type(exc).__name__}: {exc}"
            await send({"type": "lifespan.startup.failed", "message": f"The gateway did not start. {reason}"})
            return
        if "state" in scope:
            scope["state"]["engine"] = self.engine
        # What the start has made (Django, its models, the admin) stays for good: no collection need walk it again.
        if gc.isenabled():
            gc.collect()
        gc.freeze()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.engine.begin_drain()
        await self.engine.stop()
        await send({"type": "lifespan.shutdown.complete"})


class Bodies:
    """The bytes of all bodies that are held at once, under a cap."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.held = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """For one body: called with the size of each part, it raises Overloaded where the cap would be passed."""
        own = 0

        def take(size: int) -> None:
            nonlocal own
            if self.held + size > self.cap:
                raise Overloaded("The server has no room for another body now.", code="buffers_full", retry_after=5)
            self.held += size
            own += size

        try:
            yield take
        finally:
            self.held -= own


async def whole_body(receive: Receive, held: Callable[[int], None]) -> bytes | None:
    """The request's body, None if the client left; raises BodyTooLarge beyond PAGE_BYTES, and what `held` does."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        held(len(part))
        body += part
        if len(body) > PAGE_BYTES:
            raise BodyTooLarge(f"The body is over {PAGE_BYTES} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


def named(send: Send) -> Send:
    """`send`, with an x-request-id where the answer has none."""

    async def sending(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if not any(name.lower() == b"x-request-id" for name, _ in headers):
                headers.append((b"x-request-id", b"req_" + uuid7().encode()))
            message = {**message, "headers": headers}
        await send(message)

    return sending


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """No WebSocket is served: a plain answer where the server can give one, else a close before the handshake.

    https://asgi.readthedocs.io/en/latest/extensions.html#websocket-denial-response
    """
    await receive()
    error = NoWebSocket(places.read(scope["path"]).path)
    if "websocket.http.response" in scope.get("extensions", {}):
        await answer(error, send, kind="websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1003, "reason": error.message[:120]})
