"""The limits of a process: one object for requests, and behind it the back end that counts now.

A process alone counts in memory. Where another one lives, both count in SQL: the one that was there first hands over
what it has counted, and the newcomer does not begin before that. Where there is a Redis, all count there.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import structlog

from gateway.limits.claims import Charge, Claim, Estimates, Verdict
from gateway.limits.memory import MemoryLimiter
from gateway.limits.sql import Run, SqlLimiter
from gateway.limits.store import PULSE_EXPIRES, Store
from providers.ids import uuid7

if TYPE_CHECKING:
    from gateway.limits.redis import RedisLimiter

log = structlog.get_logger("gateway")

MEMORY, SQL, REDIS = "memory", "sql", "redis"
BEAT = 1.0  # seconds between two signs of life
HANDING_OVER = 2.5  # seconds that a newcomer waits for those who still count in memory
ALONE_AFTER = 60.0  # seconds without another process after which counting in memory begins again
PRUNE_BEATS = 60
SILENT = PULSE_EXPIRES / 2  # seconds without a sign of life after which one is given before a place is taken
SHOWN = 1.0  # seconds that it may take


class Limiter:
    """`run` gives a job to the process's SQL thread; jobs are done in the order in which they are given.

    With a `redis_url` requests are counted there from the start, and the database knows the processes only. `together`:
    never alone, because a process that may be frozen could not hand over what it has counted. `key_ids`: of this
    process's encryption keys, which it tells with each sign of life.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        run: Run,
        redis_url: str = "",
        *,
        together: bool = False,
        key_ids: Iterable[str] = (),
    ) -> None:
        self.clock = clock
        self.run = run
        self.together = together
        self.mode = SQL if together else MEMORY
        self.estimates = Estimates()
        self.store = Store(uuid7(), key_ids=key_ids)
        self.store.clock = clock
        self.memory = MemoryLimiter(clock)
        self.shared: SqlLimiter | RedisLimiter = SqlLimiter(self.store, run, clock)
        if redis_url:
            self.mode, self.shared = REDIS, _redis(redis_url, clock)
        self._others_at = 0.0
        self._beats = 0
        self._beaten_at = 0.0

    # --- what requests ask for ---------------------------------------------------------------------------------------

    async def take(self, claim: Claim) -> Verdict:
        """All that the claim names, or nothing."""
        if self.mode == MEMORY:
            return self.memory.take_now(claim)
        if claim.slots and self.clock() - self._beaten_at > SILENT:
            await self._show()
        return await self.shared.take(claim)

    def look(self, claim: Claim) -> Verdict:
        """Where the limits stand, as far as this process knows; nothing is taken."""
        if self.mode != MEMORY:
            return self.shared.look(claim)
        verdict = Verdict()
        for charge in claim.charges:
            verdict.note(charge.kind, self.memory.look(charge))
        return verdict

    def release(self, claim: Claim) -> None:
        """Give the places back."""
        if claim.slots:
            (self.memory if self.mode == MEMORY and claim.alone is None else self.shared).release(claim)

    def correct(self, claim: Claim, charge: Charge, actual: float) -> None:
        """Make a charge of that claim what it should have been."""
        if self.mode == MEMORY and claim.alone is None:
            self.memory.correct(charge, actual)
        else:
            self.shared.correct(claim, charge, actual)

    # --- what the engine calls ---------------------------------------------------------------------------------------

    async def join(self) -> None:
        """At the start: find the other processes, and let them hand over what they have counted alone."""
        ends = self.clock() + HANDING_OVER
        others = await self.run(self.store.beat, self.mode)
        self._note(others)
        if not others or self.mode == REDIS:
            return
        if self.mode == MEMORY:
            await self._share()
        while self.clock() < ends:
            others = await self.run(self.store.beat, self.mode)
            self._note(others)
            if MEMORY not in others.values():
                return
            await asyncio.sleep(BEAT / 10)

    async def beat(self) -> None:
        """Each second: show that this process lives, and see which others do."""
        others = await self.run(self.store.beat, self.mode)
        self._note(others)
        if others and self.mode == MEMORY:
            await self._share()
            await self.run(self.store.beat, self.mode)
        elif not others and self.mode == SQL and not self.together and self.clock() - self._others_at > ALONE_AFTER:
            await self._count_alone()
        self._beats += 1
        if self._beats % PRUNE_BEATS == 0:
            await self.run(self.store.prune)

    def tick(self) -> None:
        """Each 250 ms."""
        self.shared.tick()

    async def rest(self) -> None:
        """Before a pause: tell what is still to be told, and hold no place for requests that may not come."""
        if self.mode != MEMORY:
            await self.shared.rest()

    async def leave(self) -> None:
        """At the end: tell what is still to be told, and that the places are free."""
        await self.shared.close()
        await self.run(self.store.leave)

    async def _show(self) -> None:
        """After a pause the others do not count the places of a process of which they have not heard for long."""
        self._beaten_at = self.clock()
        try:
            async with asyncio.timeout(SHOWN):
                self._note(await self.run(self.store.beat, self.mode))
        except Exception as error:  # the store, which is away, is asked for the place next
            log.warning("process_not_shown", error=type(error).__name__)

    def _note(self, others: dict[str, str]) -> None:
        self._beaten_at = self.clock()
        self.shared.processes = len(others) + 1
        if others:
            self._others_at = self.clock()

    async def _share(self) -> None:
        """Count in SQL from now on. The first job there is to hand over; whatever requests want comes after it."""
        assert isinstance(self.shared, SqlLimiter)
        debts, used = self.memory.debts(), self.memory.used()
        self.shared.occupy(used)
        self.mode = SQL
        self.memory = MemoryLimiter(self.clock)
        log.info("limits_shared", processes=self.shared.processes)
        await self.run(self.store.put, debts, used)

    async def _count_alone(self) -> None:
        shared = self.shared
        assert isinstance(shared, SqlLimiter)
        await shared.flush()
        self.memory.adopt(await self.run(self.store.debts))
        self.memory.occupy(shared.used())
        self.mode, self.shared = MEMORY, SqlLimiter(self.store, self.run, self.clock)
        log.info("limits_in_memory")
        await self.run(self.store.empty)


def _redis(url: str, clock: Callable[[], float]) -> "RedisLimiter":
    """Imported here, because its library comes with an extra of its own."""
    from gateway.limits.redis import RedisLimiter

    return RedisLimiter(url, clock)
