"""Budgets as requests meet them: room on a lease in memory, and SQL only where that runs out.

All of it belongs to one event loop. The worst case of a request is set aside before it is sent; what it did cost is
taken when it is settled, and moves into the account's `spent` with the row, in the drain's transaction.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from typing import Any, Protocol

import msgspec
import structlog

from ledger import leases
from ledger.entries import Charge
from ledger.leases import AccountPlace
from ledger.money import units
from providers.ids import uuid7
from providers.targets import BudgetCard

log = structlog.get_logger("ledger")

IDLE_SECONDS = 1.0  # after which what is unused of a lease is returned
CLOSED_SECONDS = 15.0  # after which, all its rows being there, the lease itself is ended
BEAT_SECONDS = 10.0
# A lease is swept after 60 s without a sign of life; from half of that on nothing is spent of it.
TRUSTED_SECONDS = 30.0
# What an environment that was killed held of a lease is free again when its rows have been charged as lost.
BY_REQUEST_SECONDS = 21 * 60
REFUSED_SECONDS = 0.25  # how long a refusal is remembered, so that a flood of calls costs few statements


class Exhausted(Exception):
    """The budget has no room for what the request may cost."""

    def __init__(self, place: AccountPlace) -> None:
        super().__init__(place.budget)
        self.place = place


class Unavailable(Exception):
    """The database does not say in time whether there is room."""


class Runner(Protocol):
    """Runs a blocking job on the SQL thread."""

    def __call__(self, job: Callable[..., Any], *args: object) -> Awaitable[Any]: ...


class Purse(msgspec.Struct):
    """This process's lease of one account."""

    place: AccountPlace
    lease_id: str
    free: int = 0  # units on the lease that no request holds
    holds: int = 0  # requests that hold some
    used_at: float = 0.0
    refused: int = 0  # units for which there was no room, until `refused_until`
    refused_until: float = 0.0
    waiting: list[tuple[int, "asyncio.Future[None]"]] = msgspec.field(default_factory=list)
    taking: "asyncio.Task[None] | None" = None


class Hold(msgspec.Struct):
    """What one request has set aside: the same amount of each purse."""

    amount: int
    purses: list[Purse] = msgspec.field(default_factory=list)
    open: bool = True

    def charges(self) -> list[Charge]:
        return [(purse.place.id, purse.lease_id, self.amount) for purse in self.purses]


class Budgets:
    """The purses of a process. `run` is the way to the SQL thread; `wait` how long a request may wait for it (s).

    `by_request`: a lease has what the requests under way need and no more, because the process may be frozen after any
    of them; `rest` ends it then.
    """

    def __init__(self, run: Runner, clock: Callable[[], float], *, wait: float = 1.0, by_request: bool = False) -> None:
        self.holder_id = uuid7()
        self.wait = wait
        self.by_request = by_request
        self._run = run
        self._clock = clock
        self._purses: dict[str, Purse] = {}
        self._beaten_at = float("-inf")
        self._beat_tried_at = float("-inf")
        self._swept_at = float("-inf")
        self._over: list[str] = []  # leases out of which nothing is spent any more, to be ended

    @property
    def trusted(self) -> bool:
        return self._clock() - self._beaten_at < TRUSTED_SECONDS

    def hold(self, cards: Iterable[BudgetCard], subject: str, amount: int, at: float) -> Hold | None:
        """Set the amount aside in all budgets at once from memory; None where SQL has to be asked: see `take`."""
        if not self.trusted:
            return None
        purses: list[Purse] = []
        for card in cards:
            purse = self._purses.get(place_of(card, subject, at).id)
            if purse is None or purse.free < amount or purse.waiting:
                return None
            purses.append(purse)
        now = self._clock()
        for purse in purses:
            purse.free -= amount
            purse.holds += 1
            purse.used_at = now
        return Hold(amount, purses)

    async def take(self, cards: Iterable[BudgetCard], subject: str, amount: int, at: float) -> Hold:
        """As `hold`, with new leases where needed. Raises Exhausted or Unavailable, and then holds nothing."""
        return await self._hold_of(lambda: [self._purse(place_of(card, subject, at)) for card in cards], amount)

    async def extend(self, hold: Hold, amount: int) -> None:
        """Set so much more aside for the same request. Raises Exhausted or Unavailable, and changes nothing."""
        more = await self._hold_of(lambda: self._living(hold.purses), amount)
        for purse in more.purses:
            purse.holds -= 1  # of one request
        hold.amount += amount

    def _living(self, purses: Sequence[Purse]) -> Sequence[Purse]:
        """The same. Raises Unavailable where the process was swept meanwhile: nothing more is taken on such a lease."""
        if any(self._purses.get(purse.place.id) is not purse for purse in purses):
            raise Unavailable
        return purses

    async def _hold_of(self, purses: Callable[[], Sequence[Purse]], amount: int) -> Hold:
        hold = Hold(amount)
        try:
            async with asyncio.timeout(self.wait):
                if not self.trusted:
                    await self.beat()
                for purse in purses():
                    await self._room(purse, amount)
                    hold.purses.append(purse)
        except (Exhausted, asyncio.CancelledError):
            self.release(hold)
            raise
        except Exception as error:  # whatever keeps the database from its answer
            self.release(hold)
            raise Unavailable from error
        return hold

    def settle(self, hold: Hold, actual: int) -> list[Charge]:
        """End the hold with what it did cost; what is left of it is free again, what it lacked is taken where it is.

        Returns what the lease gave, by account, for the row that the spending moves with.
        """
        charges: list[Charge] = []
        for purse in hold.purses if hold.open else ():
            covered = min(actual, hold.amount + purse.free)
            self._end(purse, hold.amount - covered)
            charges.append((purse.place.id, purse.lease_id, covered))
        hold.open = False
        return charges

    def release(self, hold: Hold) -> None:
        """The request was not sent and has no row: all of it is free again."""
        self.settle(hold, 0)

    async def beat(self) -> None:
        """Say to SQL that this process lives. Had it been swept meanwhile, its leases are gone: begin anew."""
        self._beat_tried_at = began = self._clock()
        beat = partial(leases.beat, seconds=BY_REQUEST_SECONDS if self.by_request else 0)
        if not await self._run(beat, self.holder_id):
            # The old purses' holds are settled against leases that are no more, and so against the account alone.
            self._purses = {}
        self._beaten_at = began

    async def tend(self, drained_at: float) -> None:
        """Called about four times a second: the sign of life, unused money back, the dead swept.

        All that was settled before `drained_at` (on `clock`) has its row.
        """
        now = self._clock()
        if self._purses and now - self._beat_tried_at >= BEAT_SECONDS:
            await self.beat()
        for key, purse in list(self._purses.items()):
            if now - purse.used_at < IDLE_SECONDS or purse.waiting:
                continue
            if purse.free > 0 and self.trusted:
                await self._return(purse)
            elif not purse.holds and now - purse.used_at > CLOSED_SECONDS and drained_at > purse.used_at:
                self._over.append(self._purses.pop(key).lease_id)
        await self._end_leases()
        if now - self._swept_at >= BEAT_SECONDS:
            self._swept_at = now
            await self._run(leases.sweep)

    async def rest(self) -> None:
        """Before a pause, all rows being there: end the leases that no request needs, so that none lies frozen."""
        for key, purse in list(self._purses.items()):
            if not purse.holds and not purse.waiting:
                self._over.append(self._purses.pop(key).lease_id)
        await self._end_leases()

    async def close(self) -> None:
        """Return everything; what was settled and not drained is charged to the accounts alone when it is."""
        if self._beaten_at > float("-inf"):
            await self._run(leases.leave, self.holder_id)

    async def _end_leases(self) -> None:
        """Where the database is away they are ended the next time."""
        for lease_id in tuple(self._over):
            await self._run(leases.close, lease_id)
            with suppress(ValueError):  # both who tend and who rest may have ended it
                self._over.remove(lease_id)

    # --- one purse ---------------------------------------------------------------------------------------------------

    def _purse(self, place: AccountPlace) -> Purse:
        purse = self._purses.get(place.id)
        if purse is None:
            purse = self._purses[place.id] = Purse(place, uuid7())
        purse.place = place  # the same account, perhaps with another limit by now
        return purse

    async def _room(self, purse: Purse, amount: int) -> None:
        now = self._clock()
        if not purse.waiting and purse.free >= amount:
            purse.free -= amount
            purse.holds += 1
            purse.used_at = now
            return
        if now < purse.refused_until and amount >= purse.refused:
            raise Exhausted(purse.place)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        purse.waiting.append((amount, waiter))
        if purse.taking is None or purse.taking.done():
            purse.taking = asyncio.create_task(self._take(purse))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._end(purse, amount)  # it came at the very moment
            raise

    async def _take(self, purse: Purse) -> None:
        """Serve the waiting in their order, one statement at a time; each brings room for several where there is."""
        while purse.waiting:
            amount, waiter = purse.waiting[0]
            if waiter.done():
                purse.waiting.pop(0)
                continue
            if purse.free >= amount:
                self._serve(purse)
                continue
            hoped = sum(each for each, other in purse.waiting if not other.done())
            granted = await self._granted(purse, amount - purse.free, hoped - purse.free)
            if granted is None:
                self._refuse(purse, 0, Unavailable)
            elif granted:
                purse.free += granted
            else:
                purse.refused, purse.refused_until = amount, self._clock() + REFUSED_SECONDS
                self._refuse(purse, amount, partial(Exhausted, purse.place))
                # Too little for a call here, with what lies about in other processes it may do for one.
                with suppress(Exception):
                    await self._return(purse)

    async def _granted(self, purse: Purse, wanted: int, hoped: int) -> int | None:
        """Units, 0 where there is no room, None where SQL does not answer. A connection may die once; what was granted
        and not heard of is returned when the lease is closed."""
        take = partial(leases.take, in_advance=not self.by_request)
        for again in (True, False):
            try:
                granted: int = await self._run(take, purse.place, purse.lease_id, self.holder_id, wanted, hoped)
            except Exception as error:
                if not again:
                    log.warning("budget_not_readable", error=type(error).__name__)
                continue
            return granted
        return None

    def _serve(self, purse: Purse) -> None:
        amount, waiter = purse.waiting.pop(0)
        purse.free -= amount
        purse.holds += 1
        purse.used_at = self._clock()
        waiter.set_result(None)

    async def _return(self, purse: Purse) -> None:
        unused, purse.free = purse.free, 0
        if not unused:
            return
        try:
            await self._run(leases.give, purse.place.id, purse.lease_id, unused)
        except BaseException:
            purse.free += unused
            raise

    def _refuse(self, purse: Purse, least: int, error: Callable[[], Exception]) -> None:
        """All who wait for as much as that, or more."""
        for amount, waiter in purse.waiting:
            if amount >= least and not waiter.done():
                waiter.set_exception(error())
        purse.waiting = [one for one in purse.waiting if not one[1].done()]

    def _end(self, purse: Purse, back: int) -> None:
        purse.free += back
        purse.holds -= 1
        purse.used_at = self._clock()


def place_of(card: BudgetCard, subject: str, at: float) -> AccountPlace:
    """The account of a budget at that moment (unix seconds); of an end user's budget, the account of that end user."""
    return _place(card, subject if card.scope == "end_user" else "", starts_on(card.period, at))


@lru_cache(maxsize=65_536)
def _place(card: BudgetCard, subject: str, starts: date | None) -> AccountPlace:
    name = "\0".join((card.id, subject, card.period, starts.isoformat() if starts else ""))
    key = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).hexdigest()
    amount = units(card.amount)
    return AccountPlace(key, card.id, card.scope, subject, card.period, starts, amount, card.alert_at)


def starts_on(period: str, at: float) -> date | None:
    """The first day, in UTC, of the day or month that the moment is in; None for a budget without end."""
    if period == "total":
        return None
    today = _day(int(at // 86_400))
    return today.replace(day=1) if period == "month" else today


@lru_cache(maxsize=8)
def _day(number: int) -> date:
    return datetime.fromtimestamp(number * 86_400, UTC).date()
