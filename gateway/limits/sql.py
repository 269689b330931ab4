"""Limits of several processes through SQL: grants are asked for in batches, and requests are served from memory."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from gateway.limits import gcra
from gateway.limits.alone import AloneLimiter
from gateway.limits.claims import Charge, Claim, Slot, Standing, Verdict
from gateway.limits.gcra import Rate
from gateway.limits.memory import MAX_BUCKETS
from gateway.limits.store import GRANT_SECONDS, Answer, Batch, Granted, PlaceWant, Store, Want, kept_burst

log = structlog.get_logger("gateway")

PATIENCE = 1.0  # seconds that a request waits for the database before its process goes on alone
DOWN = 5.0  # seconds for which a database that did not answer is not asked again
GIVE_UP = 2.0  # seconds after which a request is refused that was never among those who got something
AHEAD = 0.1  # seconds before a grant runs out or dies at which the next is asked for
LEAST_AHEAD = 4.0  # calls; a smaller grant asked for ahead of need would mostly die unused
TOKENS_REMEMBERED = 1.0  # seconds; calls of other processes give tokens back when they end
PLACES_REMEMBERED = 0.05
PLACES_IDLE = 1.0
IDLE_PART = 4  # of this part of its share of the places a process keeps those that are free

Run = Callable[..., Awaitable[Any]]


class Grant(msgspec.Struct):
    left: float
    dies: float


class Bucket(msgspec.Struct):
    """What this process knows and holds of a bucket; `tat` as of the last answer."""

    rate: Rate
    tat: float = 0.0
    grants: list[Grant] = msgspec.field(default_factory=list)
    taken: float = 0.0  # units used of the newest grant
    amount: float = 0.0  # of the newest grant
    asked: bool = False
    refused_until: float = 0.0
    refused_need: float = math.inf

    def left(self, now: float) -> float:
        if self.grants and self.grants[0].dies <= now:
            self.grants = [grant for grant in self.grants if grant.dies > now]
        return sum(grant.left for grant in self.grants)

    def use(self, cost: float) -> None:
        self.taken += cost
        while cost > 0 and self.grants:
            part = min(cost, self.grants[0].left)
            self.grants[0].left -= part
            cost -= part
            if self.grants[0].left <= 0:
                del self.grants[0]

    def is_short(self, now: float, cost: float) -> bool:
        """Whether what is left will be used up or die soon, at the speed at which the newest grant is used."""
        if self.asked or self.amount < LEAST_AHEAD * cost or self.taken * 2 < self.amount:
            return False
        if not self.grants:
            return True
        return self.grants[-1].dies - now < AHEAD or self.grants[-1].left * 4 < self.amount


class Waiter(msgspec.Struct):
    """A request that waits for the database's answer; None as its verdict says that there is none."""

    claim: Claim
    verdict: "asyncio.Future[Verdict | None]"
    ends: float


class Places(msgspec.Struct):
    used: int = 0
    held: int = 0
    refused_until: float = 0.0
    used_at: float = 0.0


class SqlLimiter:
    """`run` gives a job to the process's SQL thread. `processes` is how many share, and is set by the engine."""

    def __init__(self, store: Store, run: Run, clock: Callable[[], float]) -> None:
        self.store, self.run, self.clock = store, run, clock
        self.processes = 1
        self.alone = AloneLimiter(clock)
        self.down_until = 0.0
        self._buckets: dict[str, Bucket] = {}
        self._places: dict[str, Places] = {}
        self._spare: set[str] = set()  # buckets of which places are held that no request has
        self._batch = Batch()
        self._waiting: list[Waiter] = []
        self._flushing: asyncio.Task[None] | None = None
        self._stuck = False  # a job has been given to the database, which does not answer

    async def take(self, claim: Claim) -> Verdict:
        """From memory where the process has grants; otherwise after the database's answer, or alone without one."""
        verdict = self.take_now(claim)
        if verdict is not None:
            return verdict
        if self._is_away():
            return self._alone(claim)
        waiter = Waiter(claim, asyncio.get_running_loop().create_future(), self.clock() + GIVE_UP)
        self._waiting.append(waiter)
        self._round()
        try:
            return await waiter.verdict or self._alone(claim)
        except asyncio.CancelledError:
            if waiter.verdict.done() and not waiter.verdict.cancelled():
                self._undo(claim, waiter.verdict.result())
            raise

    def take_now(self, claim: Claim) -> Verdict | None:
        """The verdict, if memory knows it; None where the database has to be asked, which then is about to happen."""
        now = self.clock()
        lacking, refusal = self._look_for(claim, now)
        if refusal is not None:
            return self._standings(claim, refusal)
        if lacking:
            for one in lacking:
                self._want(one)
            return None
        return self._taken(claim, now)

    def _look_for(self, claim: Claim, now: float) -> tuple[list[Slot | Charge], Verdict | None]:
        """What the process has not got, and what it knows that it will not get."""
        lacking: list[Slot | Charge] = []
        for slot in claim.slots:
            places = self._places.get(slot.bucket)
            if places is None or places.used >= places.held:
                if places is not None and now < places.refused_until:
                    return [], Verdict(slot)
                lacking.append(slot)
        for charge in claim.charges:
            bucket = self._bucket(charge)
            if bucket.left(now) < min(charge.cost, kept_burst(charge.rate)):
                if now < bucket.refused_until and charge.cost >= bucket.refused_need:
                    return [], Verdict(charge, self._wait(bucket, charge, now))
                lacking.append(charge)
        return lacking, None

    def _taken(self, claim: Claim, now: float) -> Verdict:
        for slot in claim.slots:
            places = self._places[slot.bucket]
            places.used, places.used_at = places.used + 1, now
        for charge in claim.charges:
            bucket = self._buckets[charge.bucket]
            bucket.use(charge.cost)
            charge.until = bucket.tat
            if bucket.is_short(now, charge.cost) and not self._is_away():
                self._want(charge)
                self._round()
        return self._standings(claim, Verdict())

    def look(self, claim: Claim) -> Verdict:
        """Where the limits stand, as far as this process knows; nothing is taken."""
        return self._standings(claim, Verdict())

    def release(self, claim: Claim) -> None:
        if claim.alone is not None:
            self.alone.release(claim)
            return
        for slot in claim.slots:
            places = self._places[slot.bucket]
            places.used -= 1
            spare = slot.limit // (IDLE_PART * self.processes)
            if places.held - places.used > spare:
                places.held = places.used + spare
                self._batch.returns[slot.bucket] = places.held
                self._round()
            if places.held > places.used:
                self._spare.add(slot.bucket)

    def correct(self, claim: Claim, charge: Charge, actual: float) -> None:
        """The database is told with the next batch, at the next tick at the latest."""
        if claim.alone is not None:
            self.alone.correct(claim, charge, actual)
            self._move(charge, (actual - charge.cost) * charge.rate.interval)
        else:
            seconds = charge.correction(actual, self.clock())
            self._bucket(charge).tat += seconds
            self._move(charge, seconds)

    def _move(self, charge: Charge, seconds: float) -> None:
        """What passed while the database was away, or was too much or too little, it is told with the next batch."""
        corrections = self._batch.corrections
        if seconds and (charge.bucket in corrections or len(corrections) < MAX_BUCKETS):
            corrections[charge.bucket] = corrections.get(charge.bucket, 0.0) + seconds

    async def flush(self) -> None:
        """Tell the database now what it is to be told."""
        if self._batch and not self._stuck:
            self._round()
        if self._flushing is not None and not self._stuck:
            await asyncio.wait({self._flushing})

    async def rest(self) -> None:
        """As `flush`, with the places that are held for the next requests."""
        self._return_idle(self.clock())
        await self.flush()

    async def close(self) -> None:
        await self.flush()

    def tick(self) -> None:
        """Called every 250 ms."""
        self._return_idle(self.clock() - PLACES_IDLE)
        if self._batch and not self._is_away():
            self._round()
        if len(self._places) > MAX_BUCKETS:
            self._places = {
                name: places
                for name, places in self._places.items()
                if places.used or places.held or name in self._batch.returns or name in self._spare
            }

    def _return_idle(self, since: float) -> None:
        """Places that this process holds for its next requests go back where none has come since then."""
        for name in [name for name in self._spare if self._places[name].used_at <= since]:
            self._spare.discard(name)
            places = self._places[name]
            if places.held > places.used:
                places.held = places.used
                self._batch.returns[name] = places.held

    # --- moving from memory and back ---------------------------------------------------------------------------------

    def occupy(self, used: dict[str, int]) -> None:
        """Requests under way, whose places were counted elsewhere, are counted here from now on."""
        for bucket, count in used.items():
            self._places[bucket] = Places(count, count)

    def used(self) -> dict[str, int]:
        return {bucket: places.used for bucket, places in self._places.items() if places.used}

    # --- asking ------------------------------------------------------------------------------------------------------

    def _bucket(self, charge: Charge) -> Bucket:
        bucket = self._buckets.pop(charge.bucket, None)
        if bucket is None or bucket.rate != charge.rate:
            bucket = Bucket(charge.rate)
            while len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[charge.bucket] = bucket
        return bucket

    def _want(self, one: Slot | Charge) -> None:
        if isinstance(one, Slot):
            self._places.setdefault(one.bucket, Places())
            known = self._batch.places.get(one.bucket)
            spare = one.limit // (IDLE_PART * self.processes)
            self._batch.places[one.bucket] = PlaceWant(one.bucket, one.limit, known.need + 1 if known else 1, spare)
            return
        need = min(one.cost, kept_burst(one.rate))
        want = self._batch.wants.get(one.bucket)
        if want is None or want.need < need:
            self._batch.wants[one.bucket] = Want(one.bucket, one.rate, need)
        self._buckets[one.bucket].asked = True

    def _is_away(self) -> bool:
        return self._stuck or self.clock() < self.down_until

    def _round(self) -> None:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        """One batch after the other, each with all that has come together meanwhile."""
        while self._batch:
            waiting, self._waiting = self._waiting, []
            batch, self._batch = self._batch, Batch()
            # As many as are held now: an answer that came meanwhile may have brought more.
            batch.returns = {name: self._places[name].held for name in batch.returns}
            job = asyncio.ensure_future(self.run(self.store.answer, batch, self.processes))
            await asyncio.wait({job}, timeout=PATIENCE)
            if not job.done():
                self._stuck = True
                self._go_alone(waiting)
                waiting = []
                log.error("limits_alone", processes=self.processes)
                await asyncio.wait({job})
                self._stuck = False
            try:
                answer: Answer = job.result()
            except Exception as error:
                log.error("limits_not_answered", error=type(error).__name__, seconds=DOWN)
                self.down_until = self.clock() + DOWN
                self._keep(batch)
                self._go_alone(waiting)
                return
            self._apply(batch, answer)
            self._serve(waiting)

    def _serve(self, waiting: list[Waiter]) -> None:
        """In the order in which they came; who lacks the same as one before him is not looked at."""
        now, still, short = self.clock(), [], set[str]()
        for waiter in waiting:
            if waiter.verdict.done():
                continue
            claim = waiter.claim
            wanted: list[Slot | Charge] = [*claim.slots, *claim.charges]
            if not any(one.bucket in short for one in wanted):
                lacking, refusal = self._look_for(claim, now)
                if refusal is not None or not lacking:
                    taken = self._taken(claim, now) if refusal is None else self._standings(claim, refusal)
                    waiter.verdict.set_result(taken)
                    continue
                short.update(one.bucket for one in lacking)
                for one in lacking:
                    self._want(one)
            if now > waiter.ends:
                waiter.verdict.set_result(self._standings(claim, Verdict(wanted[0], GRANT_SECONDS)))
            else:
                still.append(waiter)
        self._waiting = still + self._waiting

    def _go_alone(self, waiting: list[Waiter]) -> None:
        for waiter in (*waiting, *self._waiting):
            if not waiter.verdict.done():
                waiter.verdict.set_result(None)
        self._waiting = []

    def _undo(self, claim: Claim, verdict: Verdict | None) -> None:
        """The client has left with the verdict on its way: what was taken for it goes back."""
        if verdict is not None and verdict.refused is None:
            self.release(claim)
            for charge in claim.charges:
                self.correct(claim, charge, 0.0)

    def _keep(self, batch: Batch) -> None:
        """What the database was to be told it is told later."""
        for bucket, seconds in batch.corrections.items():
            if len(self._batch.corrections) < MAX_BUCKETS:
                self._batch.corrections[bucket] = self._batch.corrections.get(bucket, 0.0) + seconds
        for bucket, held in batch.returns.items():
            self._batch.returns.setdefault(bucket, held)
        for name in batch.wants:
            if name in self._buckets:
                self._buckets[name].asked = False

    def _apply(self, batch: Batch, answer: Answer) -> None:
        for name, granted in answer.grants.items():
            bucket = self._buckets.get(name)
            if bucket is not None and bucket.rate == batch.wants[name].rate:
                self._granted(bucket, batch.wants[name], granted)
        now = self.clock()
        for name, given in answer.places.items():
            places = self._places.setdefault(name, Places())
            places.held += given
            if not given:
                places.refused_until = now + PLACES_REMEMBERED

    def _granted(self, bucket: Bucket, want: Want, granted: Granted) -> None:
        bucket.asked = False
        bucket.tat = granted.at + granted.debt
        if granted.amount:
            bucket.grants.append(Grant(granted.amount, granted.at + GRANT_SECONDS))
            bucket.amount, bucket.taken, bucket.refused_until = granted.amount, 0.0, 0.0
            return
        wait = granted.debt - (kept_burst(want.rate) - want.need) * want.rate.interval
        remembered = wait if want.need == 1.0 else min(wait, TOKENS_REMEMBERED)
        bucket.refused_until, bucket.refused_need = granted.at + max(remembered, 0.001), want.need

    def _alone(self, claim: Claim) -> Verdict:
        now = self.clock()
        debts = {charge.bucket: max(self._bucket(charge).tat - now, 0.0) for charge in claim.charges}
        used = {slot.bucket: self._places[slot.bucket].used for slot in claim.slots if slot.bucket in self._places}
        verdict = self.alone.take(claim, self.processes, debts, used)
        if verdict.refused is None:
            for charge in claim.charges:
                self._move(charge, charge.cost * charge.rate.interval)
        return verdict

    # --- standing ----------------------------------------------------------------------------------------------------

    def _wait(self, bucket: Bucket, charge: Charge, now: float) -> float:
        kept = kept_burst(charge.rate)
        wait = bucket.tat - now - (kept - min(charge.cost, kept)) * charge.rate.interval
        return max(wait, bucket.refused_until - now, 0.001)

    def _standings(self, claim: Claim, verdict: Verdict) -> Verdict:
        now = self.clock()
        for charge in claim.charges:
            bucket = self._bucket(charge)
            rate, debt = charge.rate, max(bucket.tat - now, 0.0)
            free = kept_burst(rate) - debt / rate.interval + bucket.left(now) + gcra.EPSILON
            verdict.note(charge.kind, Standing(rate.limit, max(0, math.floor(free)), debt))
        return verdict
