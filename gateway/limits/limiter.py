"""The limits of a process: one object for requests, and behind it the back end that counts now.

A process alone counts in memory. Where another one lives, both count in SQL: the one that was there first hands over
what it has counted, and the newcomer does not begin before that.
"""

import asyncio
from collections.abc import Callable

import structlog

from gateway.limits.claims import Charge, Claim, Estimates, Verdict
from gateway.limits.memory import MemoryLimiter
from gateway.limits.sql import Run, SqlLimiter
from gateway.limits.store import Store
from providers.ids import uuid7

log = structlog.get_logger("gateway")

MEMORY, SQL = "memory", "sql"
BEAT = 1.0  # seconds between two signs of life
HANDING_OVER = 2.5  # seconds that a newcomer waits for those who still count in memory
ALONE_AFTER = 60.0  # seconds without another process after which counting in memory begins again
PRUNE_BEATS = 60


class Limiter:
    """`run` gives a job to the process's SQL thread; jobs are done in the order in which they are given."""

    def __init__(self, clock: Callable[[], float], run: Run) -> None:
        self.clock = clock
        self.run = run
        self.mode = MEMORY
        self.estimates = Estimates()
        self.store = Store(uuid7())
        self.memory = MemoryLimiter(clock)
        self.sql = SqlLimiter(self.store, run, clock)
        self._others_at = 0.0
        self._beats = 0

    # --- what requests ask for ---------------------------------------------------------------------------------------

    async def take(self, claim: Claim) -> Verdict:
        """All that the claim names, or nothing."""
        if self.mode == MEMORY:
            return self.memory.take_now(claim)
        return await self.sql.take(claim)

    def look(self, claim: Claim) -> Verdict:
        """Where the limits stand, as far as this process knows; nothing is taken."""
        if self.mode != MEMORY:
            return self.sql.look(claim)
        verdict = Verdict()
        for charge in claim.charges:
            verdict.note(charge.kind, self.memory.look(charge))
        return verdict

    def release(self, claim: Claim) -> None:
        """Give the places back."""
        if claim.slots:
            (self.memory if self.mode == MEMORY and claim.alone is None else self.sql).release(claim)

    def correct(self, claim: Claim, charge: Charge, actual: float) -> None:
        """Make a charge of that claim what it should have been."""
        if self.mode == MEMORY and claim.alone is None:
            self.memory.correct(charge, actual)
        else:
            self.sql.correct(claim, charge, actual)

    # --- what the engine calls ---------------------------------------------------------------------------------------

    async def join(self) -> None:
        """At the start: find the other processes, and let them hand over what they have counted alone."""
        ends = self.clock() + HANDING_OVER
        others = await self.run(self.store.beat, self.mode)
        self._note(others)
        if not others:
            return
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
        elif not others and self.mode == SQL and self.clock() - self._others_at > ALONE_AFTER:
            await self._count_alone()
        self._beats += 1
        if self._beats % PRUNE_BEATS == 0:
            await self.run(self.store.prune)

    def tick(self) -> None:
        """Each 250 ms."""
        self.sql.tick()

    async def leave(self) -> None:
        """At the end: tell what is still to be told, and that the places are free."""
        await self.sql.flush()
        await self.run(self.store.leave)

    def _note(self, others: dict[str, str]) -> None:
        self.sql.processes = len(others) + 1
        if others:
            self._others_at = self.clock()

    async def _share(self) -> None:
        """Count in SQL from now on. The first job there is to hand over; whatever requests want comes after it."""
        debts, used = self.memory.debts(), self.memory.used()
        self.mode = SQL
        self.sql.occupy(used)
        self.memory = MemoryLimiter(self.clock)
        log.info("limits_shared", processes=self.sql.processes)
        await self.run(self.store.put, debts, used)

    async def _count_alone(self) -> None:
        await self.sql.flush()
        debts = await self.run(self.store.debts)
        self.memory.adopt(debts)
        self.memory.occupy(self.sql.used())
        self.mode = MEMORY
        self.sql = SqlLimiter(self.store, self.run, self.clock)
        log.info("limits_in_memory")
        await self.run(self.store.empty)
