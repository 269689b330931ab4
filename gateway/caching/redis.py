"""Answers in Redis or Valkey: each under its name, with its time, read up to a bound and written without waiting."""

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.caching.kept import MAX_FRAME, Kept, frame, unframe
from gateway.caching.pending import Pending
from gateway.process import Memory
from gateway.redislink import Link

PREFIX = b"gateway:cache:1:"
CONNECTIONS = 64
AT_ONCE = 200  # answers in one round trip


class RedisStore:
    """Whatever is wrong there (no answer in time, other bytes, another type) is a miss."""

    def __init__(self, url: str, clock: Callable[[], float], account: Memory) -> None:
        self.link = Link(url, clock, connections=CONNECTIONS)
        self._pending = Pending(account)
        self._writing: asyncio.Task[None] | None = None

    async def get(self, names: list[bytes]) -> list[Kept | None]:
        if self.link.resting:
            return [None] * len(names)
        found: list[Any] = []
        for start in range(0, len(names), AT_ONCE):
            part = names[start : start + AT_ONCE]
            values = await self.link.ask(self._read(part))
            found += [None] * len(part) if values is None else values
        return [
            unframe(name, value) if isinstance(value, bytes) and value else None
            for name, value in zip(names, found, strict=True)
        ]

    async def _read(self, names: list[bytes]) -> list[Any]:
        async with self.link.redis.pipeline(transaction=False) as pipe:
            for name in names:
                # Whoever can write there may have put gigabytes under a name.
                pipe.getrange(PREFIX + name, 0, MAX_FRAME)
            values: list[Any] = await pipe.execute(raise_on_error=False)
            return values

    def put(self, name: bytes, kept: Kept, seconds: float) -> None:
        if not self.link.resting and self._pending.add(name, frame(name, kept), seconds):
            self._begin()

    def _begin(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while batch := self._pending.take(AT_ONCE):
            try:
                if not self.link.resting:
                    await self.link.ask(self._send(batch))
            finally:
                self._pending.written(batch)

    async def _send(self, batch: list[tuple[bytes, bytes, float]]) -> list[Any]:
        async with self.link.redis.pipeline(transaction=False) as pipe:
            for name, value, seconds in batch:
                pipe.set(PREFIX + name, value, px=max(1, int(seconds * 1000)))
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    async def tend(self) -> None:
        """Nothing is due: Redis forgets by itself."""

    async def close(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=1.0)
        await self.link.close()
