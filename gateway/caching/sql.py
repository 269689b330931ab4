"""Answers in the database: a table of raw bytes, written in batches and pruned a little at a time.

All SQL runs on the process's one SQL thread. A read is a hop there, which only requests make whose alias says so.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from django.apps import apps
from django.db import transaction
from django.db.models import Sum

from gateway.caching.kept import MAX_FRAME, Kept, frame, unframe
from gateway.caching.pending import Entry, Pending
from gateway.process import Memory

log = structlog.get_logger("gateway")

WAIT = 0.5  # seconds that a request waits for the answer
FAILURES = 3
REST = 5.0  # seconds without a try after so many failures
BATCH_ROWS, BATCH_BYTES = 50, 2 * 1024 * 1024  # of one transaction: other writers wait for it
READ_AT_ONCE = 500
PRUNE_EVERY = 10.0
PRUNE_ROWS = 200
SUM_EVERY = 60.0

Run = Callable[..., Awaitable[Any]]


class SqlStore:
    """At most about `capacity` bytes; what expires first goes first."""

    def __init__(
        self,
        run: Run,
        clock: Callable[[], float],
        account: Memory,
        capacity: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._clock, self._wall = clock, wall
        self._pending = Pending(account)
        self.capacity = capacity
        self._failures = 0
        self._rest_until = 0.0
        self._pruned_at = self._summed_at = clock()
        self._excess = 0  # bytes that are to go

    async def get(self, names: list[bytes]) -> list[Kept | None]:
        if self._clock() < self._rest_until:
            return [None] * len(names)
        try:
            async with asyncio.timeout(WAIT):
                found = await self._run(_read, [name.hex() for name in names], self._wall())
        except Exception as error:  # whatever keeps the database from its answer, the provider has one
            self._failed(error)
            return [None] * len(names)
        self._failures = 0
        values = [found.get(name.hex()) for name in names]
        return [unframe(name, value) if value else None for name, value in zip(names, values, strict=True)]

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= FAILURES:
            self._rest_until = self._clock() + REST
            if self._failures == FAILURES:
                log.warning("cache_not_shared", error=type(error).__name__)

    def put(self, name: bytes, kept: Kept, seconds: float) -> None:
        self._pending.add(name, frame(name, kept), self._wall() + seconds)

    async def tend(self) -> None:
        """Called four times a second: write what waits, and from time to time delete a little of what is too much."""
        while batch := self._pending.take(BATCH_ROWS, BATCH_BYTES):
            try:
                await self._run(_write, batch)
            finally:
                self._pending.written(batch)
        now = self._clock()
        if now - self._summed_at >= SUM_EVERY:
            self._summed_at = now
            self._excess = await self._run(_size) - self.capacity
        if self._excess > 0:
            self._excess -= await self._run(_delete_first)
        elif now - self._pruned_at >= PRUNE_EVERY and not await self._run(_prune, self._wall()):
            self._pruned_at = now

    async def close(self) -> None:
        while batch := self._pending.take(BATCH_ROWS, BATCH_BYTES):
            await self._run(_write, batch)


def _answers() -> Any:
    """The table. By its name: models stand behind what requests need."""
    return apps.get_model("gateway", "CachedAnswer").objects


def _read(names: list[str], now: float) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for start in range(0, len(names), READ_AT_ONCE):
        rows = _answers().filter(pk__in=names[start : start + READ_AT_ONCE], expires_at__gt=now, size__lte=MAX_FRAME)
        found |= {name: bytes(value) for name, value in rows.values_list("pk", "value")}
    return found


def _write(batch: list[Entry]) -> None:
    rows = [_answers().model(name.hex(), value, len(value), expires) for name, value, expires in batch]
    # In one order, so that no two processes wait in a ring.
    rows.sort(key=lambda row: row.id)
    with transaction.atomic():
        _answers().bulk_create(
            rows,
            update_conflicts=True,
            unique_fields=["id"],
            update_fields=["value", "size", "expires_at"],
        )


def _size() -> int:
    return int(_answers().aggregate(total=Sum("size"))["total"] or 0)


def _delete_first() -> int:
    """Of those that expire first; returns how many bytes they had."""
    first = list(_answers().order_by("expires_at").values_list("pk", "size")[:PRUNE_ROWS])
    _answers().filter(pk__in=[name for name, _ in first]).delete()
    return sum(size for _, size in first)


def _prune(now: float) -> int:
    old = list(_answers().filter(expires_at__lte=now).values_list("pk", flat=True)[:PRUNE_ROWS])
    if old:
        _answers().filter(pk__in=old).delete()
    return len(old)
