"""An application for server tests in a process of its own: streams, refuses and stops as the gateway does."""

import asyncio
import os

from proxysite.refusals import Receive, Scope, Send
from proxysite.switchboard import Switchboard

STOPPED_FILE = os.environ.get("PRETEND_STOPPED_FILE", "")


class PretendEngine:
    """Ready, draining, ending streams: what the server needs of an engine."""

    def __init__(self) -> None:
        self.ready = False
        self.ended = asyncio.Event()
        self.open = 0

    async def start(self) -> None:
        self.ready = True

    async def stop(self) -> None:
        if STOPPED_FILE:
            with open(STOPPED_FILE, "a") as file:
                file.write(f"{self.open}\n")

    def begin_drain(self) -> None:
        self.ready = False

    async def end_streams(self) -> None:
        self.ended.set()
        while self.open:
            await asyncio.sleep(0.01)


engine = PretendEngine()


async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
    """`/v1/stream/N`: N events, one each 50 ms; `/v1/hang`: nothing, for ever; else `pid`."""
    kind, _, count = scope["path"].removeprefix("/v1/").partition("/")
    if not engine.ready:
        await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"13")]})
        await send({"type": "http.response.body", "body": b"shutting_down"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    engine.open += 1
    try:
        if kind == "stream":
            await stream(int(count), send)
        elif kind == "hang":
            await asyncio.sleep(3600)
        else:
            await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
    finally:
        engine.open -= 1


async def stream(count: int, send: Send) -> None:
    for number in range(count):
        if engine.ended.is_set():
            await send({"type": "http.response.body", "body": b'data: {"error":{}}\n\n'})
            return
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


application = Switchboard(django=gateway, gateway=gateway, engine=engine)
