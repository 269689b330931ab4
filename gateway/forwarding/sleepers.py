"""Providers that sleep until they are asked: a deployment scaled to none, a model that is read into memory first.

What an answer of one that sleeps looks like stands in its row (`asleep` of its quirks). It is asked again until it is
awake or the route's time for the first byte is over. A client that waits for a stream gets the head after a while, and
comments that keep its connection; a plain one gets the answer, or a 503 with a `retry-after`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any

from gateway.errors import UpstreamRefused
from gateway.receipts import Receipt
from gateway.replies.relays import Reply
from providers.targets import Quirks, Target

PATIENCE = 12.0  # seconds after which the head of a stream goes out, before the provider's first byte
FIRST_PAUSE = 1.0  # seconds before it is asked again; each pause is twice the one before
LONGEST_PAUSE = 15.0
COME_AGAIN = 30  # seconds that a client is told to wait when the time is over


def may_sleep(targets: Sequence[Target]) -> bool:
    return any(target.provider.quirks.asleep for target in targets)


def is_asleep(refusal: UpstreamRefused, quirks: Quirks) -> bool:
    words = quirks.asleep.get(refusal.upstream_status)
    return words is not None and words in refusal.original.lower()


async def until_awake(ask: Callable[[float], Awaitable[Reply]], target: Target, receipt: Receipt) -> Reply:
    """The answer of `ask`, which is given the seconds that are left; it is called again while the provider sleeps."""
    clock, limit = receipt.process.clock, target.provider.timeouts.first_byte
    ends, pause = clock() + limit, FIRST_PAUSE
    while True:
        try:
            return await ask(max(ends - clock(), 0.1))
        except UpstreamRefused as refusal:
            if not is_asleep(refusal, target.provider.quirks):
                raise
            wait = min(max(pause, told_to_wait(refusal)), LONGEST_PAUSE)
            if clock() + wait >= ends:
                raise still_asleep(refusal) from refusal
        with receipt.within(wait + LONGEST_PAUSE, still_asleep):
            await asyncio.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def told_to_wait(refusal: UpstreamRefused) -> float:
    try:
        return float(refusal.headers.get("retry-after", ""))
    except ValueError:
        return 0.0


def still_asleep(refusal: UpstreamRefused | None = None) -> UpstreamRefused:
    return UpstreamRefused(
        "The provider's model is still being started. Ask again in a while.",
        status=503,
        type="service_unavailable_error",
        code="upstream_asleep",
        headers={"retry-after": str(COME_AGAIN)},
        original=refusal.original if refusal is not None else "",
    )


class Waking:
    """A reply that is on its way in a task of its own, so that whoever waits for it may do something else meanwhile."""

    def __init__(self, pending: Coroutine[Any, Any, Reply]) -> None:
        self.task = asyncio.ensure_future(pending)
        self.is_taken = False

    async def soon(self) -> Reply | None:
        """The reply, or None when it has not come in PATIENCE; a cancellation goes on to the task."""
        try:
            await asyncio.wait({self.task}, timeout=PATIENCE)
        except asyncio.CancelledError:
            self.task.cancel()
            await self  # raises, unless the reply came in the same moment: then nobody wants it any more
            self.is_taken = False
            self.close()
            raise
        return await self if self.task.done() else None

    def __await__(self) -> Generator[Any, None, Reply]:
        reply = yield from self.task.__await__()
        self.is_taken = True
        return reply

    def close(self) -> None:
        """Nobody waits any more: the call ends, and what it has brought is closed."""
        if not self.is_taken:
            self.task.cancel()
            self.task.add_done_callback(_dispose)


def _dispose(task: "asyncio.Task[Reply]") -> None:
    if task.cancelled() or task.exception() is not None:
        return
    upstream = task.result().upstream
    if upstream is not None:
        _closing.add(closing := asyncio.ensure_future(upstream.aclose()))
        closing.add_done_callback(_closing.discard)


_closing: set["asyncio.Future[None]"] = set()  # the loop itself keeps tasks only weakly
