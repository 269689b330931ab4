"""The way to Redis or Valkey for whoever can do without: a short time for each answer, and a rest after failures.

The library is imported here and comes with an extra of its own: only what needs Redis imports this.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from redis import asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

log = structlog.get_logger("gateway")

T = TypeVar("T")

TIMEOUT = 0.05  # seconds, to connect and for each answer
LATE = 0.005  # seconds by which this process itself was busy; then the answer may be there and not read yet
AGAIN = 0.03
FAILURES = 3
REST = 5.0  # seconds


class Link:
    """`redis` is the client; nobody waits for it while `resting`."""

    def __init__(self, url: str, clock: Callable[[], float], *, connections: int) -> None:
        self.clock = clock
        self.failures = 0
        self.rest_until = 0.0
        self.redis = aioredis.Redis.from_url(
            url,
            # The timeout is kept by `ask`, which knows whether it is this process that was slow.
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            single_connection_client=False,
            max_connections=connections,
        )

    @property
    def resting(self) -> bool:
        return self.clock() < self.rest_until

    @property
    def failing(self) -> bool:
        """Whether the last FAILURES tries were in vain."""
        return self.failures >= FAILURES

    async def ask(self, job: Coroutine[Any, Any, T], timeout: float = TIMEOUT) -> T | None:
        """What the job gives; None where the server is away or does not answer in time."""
        answer = await self._in_time(asyncio.ensure_future(job), timeout)
        if answer is None:
            self.failures += 1
            if self.failing:
                self.rest_until = self.clock() + REST
        else:
            self.failures = 0
        return answer

    async def _in_time(self, job: "asyncio.Future[T]", timeout: float) -> T | None:
        for seconds in (timeout, *[AGAIN] * 5):
            began = self.clock()
            await asyncio.wait({job}, timeout=seconds)
            if job.done() or self.clock() - began < seconds + LATE:
                break
        if not job.done():
            job.cancel()
            await asyncio.wait({job})
            await self.redis.connection_pool.disconnect()
        if job.cancelled():
            return None
        try:
            return job.result()
        except Exception as error:
            log.warning("redis_failed", error=type(error).__name__)
            return None

    async def close(self) -> None:
        await self.redis.aclose()
