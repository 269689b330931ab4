"""Small ASGI applications in the runtime, in this loop, against the emulator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from proxysite.awslambda.runtime import ASGIApp, Receive, Runtime, Scope, Send, Site
from tests.deploy.emulator import Emulator

FAREWELL = b'data: {"error":"broke"}\n\n'
SSE = [(b"content-type", b"text/event-stream")]


class Quiet:
    """A background that notes when it is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.flushing = 0.0
        self.ends: Callable[[asyncio.Task[Any]], None] = lambda task: None

    async def thaw(self) -> None:
        self.calls.append("thaw")

    async def flush(self) -> None:
        await asyncio.sleep(self.flushing)
        self.calls.append("flush")

    def time_is_up(self, task: "asyncio.Task[Any]") -> None:
        self.calls.append("time is up")
        self.ends(task)


def site(app: Callable[[Scope, Receive, Send], Awaitable[None]], background: Quiet | None = None) -> Site:
    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if background is not None:
                scope["state"]["engine"] = background
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
        else:
            await app(scope, receive, send)

    async def event(value: Any) -> object:
        return {"seen": value}

    async def refuse(exc: BaseException, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": type(exc).__name__.encode()})

    return Site(whole, event, refuse, FAREWELL)


@asynccontextmanager
async def running(app: ASGIApp, background: Quiet | None = None, **values: str) -> AsyncIterator[Emulator]:
    """The emulator, with the application in a runtime that polls it."""
    async with Emulator() as emulator:
        task = asyncio.ensure_future(Runtime(lambda: site(app, background), emulator.environment(**values)).run())
        await emulator.idle(5)
        try:
            yield emulator
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def answering(body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        await send({"type": "http.response.body", "body": body})

    return app
