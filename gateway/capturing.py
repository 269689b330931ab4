"""Bodies that are kept, for the keys and aliases that say so: taken at the side, stored off the requests' way.

A request that is not captured costs one look at its key and its alias, and its chunks cost nothing.
"""

import random
from collections import deque
from collections.abc import AsyncIterator

import structlog

from gateway.errors import Overloaded
from gateway.process import Memory
from gateway.receipts import Receipt
from ledger.payloads import Taken
from providers.targets import AliasCard

log = structlog.get_logger("capture")

QUEUE_BYTES = 8 * 1024 * 1024
BATCH = 20


class Capture:
    """What one request leaves: at most `cap` bytes of each body."""

    __slots__ = ("cap", "kept", "parts", "request", "request_bytes", "response_bytes")

    def __init__(self, request: bytes, cap: int) -> None:
        self.request, self.request_bytes = request[:cap], len(request)
        self.cap = cap
        self.parts: list[bytes] = []
        self.kept = self.response_bytes = 0

    def add(self, part: bytes) -> None:
        self.response_bytes += len(part)
        if self.kept < self.cap:
            part = bytes(part[: self.cap - self.kept])
            self.parts.append(part)
            self.kept += len(part)

    async def tee(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same parts, each noted as it passes."""
        async for part in parts:
            self.add(part)
            yield part


class Captures:
    """One a process. What waits to be stored has a bound, and so have the bodies: beyond it they are dropped."""

    def __init__(self, cap: int, memory: Memory) -> None:
        self.cap, self.memory = cap, memory
        self.waiting: deque[Taken] = deque()
        self.held = 0
        self.dropped = 0

    def begin(self, receipt: Receipt, alias: AliasCard, body: bytes) -> None:
        """Called for each admitted request: draws whether it is one of those that are kept."""
        key = receipt.call.key
        percent = max(alias.capture, key.capture if key is not None else 0.0)
        if percent and random.random() * 100 < percent:  # noqa: S311 - a sample, no secret
            receipt.capture = Capture(body, self.cap)

    def settled(self, receipt: Receipt, capture: Capture) -> None:
        """The request is over: its bodies wait for being stored. Never raises."""
        size = len(capture.request) + capture.kept
        try:
            if self.held + size > QUEUE_BYTES:
                raise Overloaded("The queue is full.")
            self.memory.take(size)
        except Overloaded:
            self.dropped += 1
            log.warning("payload_dropped", request_id=receipt.call.id, dropped=self.dropped)
            return
        self.held += size
        call, key = receipt.call, receipt.call.key
        self.waiting.append(
            Taken(
                id=call.id,
                at=call.at,
                key=key.id if key else "",
                key_name=key.name if key else "",
                alias=receipt.alias,
                model=receipt.ask.model,
                outcome=receipt.outcome,
                request=capture.request,
                response=b"".join(capture.parts),
                request_bytes=capture.request_bytes,
                response_bytes=capture.response_bytes,
                stream=receipt.ask.stream,
            )
        )

    def batch(self) -> list[Taken]:
        """What is to be stored next; it waits until `stored` says that it is."""
        return [self.waiting[number] for number in range(min(BATCH, len(self.waiting)))]

    def stored(self, count: int) -> None:
        for _ in range(count):
            taken = self.waiting.popleft()
            size = len(taken.request) + len(taken.response)
            self.held -= size
            self.memory.give(size)
