"""Limits of several processes through Redis or Valkey: one script call for all of a request's buckets and places.

Whatever requests want at the same moment goes out together on one connection. Where the server does not answer within
TIMEOUT, a request goes on alone; after FAILURES of these, for some seconds, no request waits for it any more.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog
from redis.exceptions import NoScriptError

from gateway import redislink
from gateway.limits import scripts
from gateway.limits.alone import AloneLimiter
from gateway.limits.claims import REQUESTS, Charge, Claim, Slot, Verdict, standing
from gateway.limits.memory import MAX_BUCKETS
from gateway.redislink import FAILURES, Link

log = structlog.get_logger("gateway")

TIMEOUT = redislink.TIMEOUT
AT_ONCE = 50  # script calls in one round trip
LEASE = 60.0  # seconds after which a place is free whose process has not renewed it
RENEW = 20.0
PREFIX = "gateway:{limits}:"  # the braces keep all keys on one node of a cluster
# Apart from the buckets: an end user may be named so that its places would have the name of another one's bucket.
PLACES = PREFIX + "places:"


class Call(msgspec.Struct):
    """A claim on its way; the future gets the server's answer, None where there was none."""

    claim: Claim
    answer: "asyncio.Future[list[Any] | None]"


class Settlement(msgspec.Struct):
    """What the server is to be told: seconds by which buckets move, places that are free."""

    corrections: dict[str, float] = msgspec.field(default_factory=dict)
    places: set[tuple[str, str]] = msgspec.field(default_factory=set)  # bucket, holder

    def __bool__(self) -> bool:
        return bool(self.corrections or self.places)


class RedisLimiter:
    """`processes` is how many share, for when each goes on alone; it is set by the engine."""

    def __init__(self, url: str, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.processes = 1
        self.alone = AloneLimiter(clock)
        self._link = Link(url, clock, connections=2)
        self._calls: list[Call] = []
        self._settlement = Settlement()
        self._flushing: asyncio.Task[None] | None = None
        self._tats: dict[str, float] = {}  # by the process's clock, as of the last answers
        self._refused_until: dict[str, float] = {}
        self._held: dict[str, dict[str, int]] = {}  # bucket: holder: limit
        self._renewed_at = clock()

    async def take(self, claim: Claim) -> Verdict:
        """One round trip, or none: a refusal is remembered until its time."""
        now = self.clock()
        for charge in claim.charges:
            if charge.kind == REQUESTS and (until := self._refused_until.get(charge.bucket, 0.0)) > now:
                return self._stand(claim, Verdict(charge, until - now))
        answer: list[Any] | None = None
        if not self._link.resting:
            call = Call(claim, asyncio.get_running_loop().create_future())
            self._calls.append(call)
            self._begin()
            try:
                answer = await call.answer
            except asyncio.CancelledError:
                if call.answer.done() and not call.answer.cancelled() and (answer := call.answer.result()) is not None:
                    self._undo(claim, answer)
                    self._begin()
                raise
        if answer is None:
            debts = {charge.bucket: max(self._tats.get(charge.bucket, now) - now, 0.0) for charge in claim.charges}
            held = {slot.bucket: len(self._held.get(slot.bucket, ())) for slot in claim.slots}
            verdict = self.alone.take(claim, self.processes, debts, held)
            if verdict.refused is None:
                for charge in claim.charges:
                    self._move(charge, charge.cost)
            return verdict
        return self._read(claim, answer)

    def look(self, claim: Claim) -> Verdict:
        """Where the limits stand as of the last answers; nothing is taken."""
        return self._stand(claim, Verdict())

    def release(self, claim: Claim) -> None:
        if claim.alone is not None:
            self.alone.release(claim)
            return
        for slot in claim.slots:
            holders = self._held.get(slot.bucket, {})
            holders.pop(claim.holder, None)
            if not holders:
                self._held.pop(slot.bucket, None)
            self._settlement.places.add((slot.bucket, claim.holder))
        self._begin()

    def correct(self, claim: Claim, charge: Charge, actual: float) -> None:
        """Make a charge what it should have been."""
        if claim.alone is not None:
            self.alone.correct(claim, charge, actual)
            self._move(charge, actual - charge.cost)
        else:
            self._move(charge, charge.correction(actual, self.clock()) / charge.rate.interval)
            self._begin()

    def _move(self, charge: Charge, units: float) -> None:
        """What passed while the server was away, or was too much or too little, it is told with the next round trip."""
        corrections = self._settlement.corrections
        if units and (charge.bucket in corrections or len(corrections) < MAX_BUCKETS):
            corrections[charge.bucket] = corrections.get(charge.bucket, 0.0) + units * charge.rate.interval
            self._refused_until.pop(charge.bucket, None)

    def tick(self) -> None:
        """Called every 250 ms: after its rest the server is tried with what is to be told, or with nothing."""
        now = self.clock()
        if self._link.resting:
            return
        if self._link.failing or self._settlement or (now - self._renewed_at > RENEW and self._held):
            self._begin()

    async def flush(self) -> None:
        if self._flushing is not None and not self._flushing.done():
            await asyncio.wait({self._flushing})

    async def rest(self) -> None:
        """Tell the server now what it is to be told."""
        if self._settlement:
            self._begin()
        await self.flush()

    async def close(self) -> None:
        await self.flush()
        await self._link.close()

    # --- one round trip after the other ------------------------------------------------------------------------------

    def _begin(self) -> None:
        if not self._link.resting and (self._flushing is None or self._flushing.done()):
            self._flushing = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        while True:
            calls, self._calls = self._calls[:AT_ONCE], self._calls[AT_ONCE:]
            settlement, self._settlement = self._settlement, Settlement()
            answers = await self._link.ask(self._send(calls, settlement), TIMEOUT)
            if answers is None:
                self._failed(settlement)
                calls, self._calls = [*calls, *self._calls], []
            for place, call in enumerate(calls):
                if not call.answer.done():
                    call.answer.set_result(None if answers is None else answers[place])
                elif answers is not None:
                    self._undo(call.claim, answers[place])
            if answers is None or not (self._calls or self._settlement):
                return

    async def _send(self, calls: Sequence[Call], settlement: Settlement) -> list[Any]:
        renewing = self.clock() - self._renewed_at > RENEW
        if renewing:
            self._renewed_at = self.clock()
        for last in (False, True):
            async with self._link.redis.pipeline(transaction=False) as pipe:
                pipe.ping()
                if settlement:
                    pipe.evalsha(scripts.SETTLE.sha, *_settling(settlement))
                if renewing:
                    for bucket, holders in self._held.items():
                        pipe.evalsha(scripts.RENEW.sha, 1, PLACES + bucket, LEASE, *holders)
                first = len(pipe)
                for call in calls:
                    pipe.evalsha(scripts.TAKE.sha, *_taking(call.claim))
                answers: list[Any] = await pipe.execute(raise_on_error=False)
            failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
            if failed is None:
                return answers[first:]
            if last or not isinstance(failed, NoScriptError):
                raise failed
            for script in (scripts.TAKE, scripts.SETTLE, scripts.RENEW):
                await self._link.redis.script_load(script.text)
        return []

    def _failed(self, settlement: Settlement) -> None:
        """What the server was to be told it is told later, but for places: their leases end."""
        for bucket, seconds in settlement.corrections.items():
            if len(self._settlement.corrections) < MAX_BUCKETS:
                known = self._settlement.corrections.get(bucket, 0.0)
                self._settlement.corrections[bucket] = known + seconds
        if self._link.failures == FAILURES:
            log.error("limits_alone", processes=self.processes)

    def _undo(self, claim: Claim, answer: list[Any]) -> None:
        """The client has left while the server was asked: what it took in vain it gives back."""
        if int(answer[0]) == 0:
            self._settlement.places.update((slot.bucket, claim.holder) for slot in claim.slots)
            for charge in claim.charges:
                self._move(charge, -charge.cost)

    # --- answers -----------------------------------------------------------------------------------------------------

    def _read(self, claim: Claim, answer: list[Any]) -> Verdict:
        """The script's answer: the place of what was refused (0: nothing), the wait, each bucket's debt; seconds."""
        refused, wait, *debts = int(answer[0]), float(answer[1]), *map(float, answer[2:])
        now = self.clock()
        for charge, debt in zip(claim.charges, debts, strict=True):
            self._tats.pop(charge.bucket, None)
            self._tats[charge.bucket] = charge.until = now + debt
        while len(self._tats) > MAX_BUCKETS:
            del self._tats[next(iter(self._tats))]
        if not refused:
            for slot in claim.slots:
                self._held.setdefault(slot.bucket, {})[claim.holder] = slot.limit
            return self._stand(claim, Verdict())
        wanted: list[Slot | Charge] = [*claim.slots, *claim.charges]
        one = wanted[refused - 1]
        if isinstance(one, Charge) and one.kind == REQUESTS:
            while len(self._refused_until) >= MAX_BUCKETS:
                del self._refused_until[next(iter(self._refused_until))]
            self._refused_until[one.bucket] = now + wait
        return self._stand(claim, Verdict(one, wait))

    def _stand(self, claim: Claim, verdict: Verdict) -> Verdict:
        now = self.clock()
        for charge in claim.charges:
            verdict.note(charge.kind, standing(charge.rate, self._tats.get(charge.bucket, now), now))
        return verdict


def _taking(claim: Claim) -> list[Any]:
    """Number of keys, the keys, then: number of places, lease, holder, limits; interval, tolerance, burst, cost..."""
    keys = [PLACES + slot.bucket for slot in claim.slots] + [PREFIX + charge.bucket for charge in claim.charges]
    values: list[Any] = [len(claim.slots), LEASE, claim.holder, *(slot.limit for slot in claim.slots)]
    for charge in claim.charges:
        rate = charge.rate
        # Only buckets of tokens are overdrawn: more debt than a whole burst means that the server's clock was moved.
        most = rate.tolerance if charge.kind == REQUESTS else math.inf
        cost = min(charge.cost, rate.burst)
        values += [repr(rate.interval), repr(rate.tolerance), repr(cost), repr(charge.cost), repr(min(most, 1e12))]
    return [len(keys), *keys, *values]


def _settling(settlement: Settlement) -> list[Any]:
    places = sorted(settlement.places)
    keys = [*(PREFIX + bucket for bucket in settlement.corrections), *(PLACES + bucket for bucket, _ in places)]
    values = [*map(repr, settlement.corrections.values()), *(holder for _, holder in places)]
    return [len(keys), *keys, len(settlement.corrections), *values]
