"""/healthz and /readyz, answered before Django: a probe names the machine's address as Host, and asks often."""

import asyncio
import time

from asgiref.sync import sync_to_async
from django.db import connection

from gateway.errors import MethodNotAllowed
from proxysite.refusals import Receive, Scope, Send, answer

ALIVE, READY, DRAINING, DATABASE = b"ok", b"ready", b"draining", b"database"
PING_SECONDS = 2.0
# Probes and the curious share one answer of the database for this long.
PING_KEPT_SECONDS = 0.5


def ping() -> None:
    """Ask the database for one row, on a connection that is closed again; raises what the database raises."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchone()
    finally:
        connection.close()


class Readiness:
    """Whether the database answers, asked at most twice a second."""

    def __init__(self) -> None:
        self.asked = float("-inf")
        self.good = False
        self.lock = asyncio.Lock()

    async def database(self) -> bool:
        async with self.lock:
            if time.monotonic() - self.asked >= PING_KEPT_SECONDS:
                try:
                    await asyncio.wait_for(sync_to_async(ping, thread_sensitive=False)(), PING_SECONDS)
                except Exception:
                    self.good = False
                else:
                    self.good = True
                self.asked = time.monotonic()
            return self.good


async def healthz(scope: Scope, receive: Receive, send: Send) -> None:
    await word(scope, send, 200, ALIVE)


async def readyz(scope: Scope, send: Send, *, ready: bool, readiness: Readiness | None) -> None:
    """200 where a load balancer may send work: the engine runs and the database answers; else 503."""
    if not ready:
        await word(scope, send, 503, DRAINING)
    elif readiness is not None and not await readiness.database():
        await word(scope, send, 503, DATABASE)
    else:
        await word(scope, send, 200, READY)


async def word(scope: Scope, send: Send, status: int, text: bytes) -> None:
    """One word of text, never cached."""
    if scope["method"] not in ("GET", "HEAD"):
        await answer(MethodNotAllowed("Only GET and HEAD."), send)
        return
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else text, "more_body": False})
