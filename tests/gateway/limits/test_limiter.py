import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.limits.claims import Charge, Claim, Slot
from gateway.limits.limiter import Limiter
from tests.gateway.limits.fleet import RATE, Thread

pytestmark = pytest.mark.django_db(transaction=True)


@asynccontextmanager
async def process() -> AsyncIterator[Limiter]:
    """A limiter with its own SQL thread; it has not looked for others yet."""
    thread = Thread()
    limiter = Limiter(time.monotonic, thread.run)
    yield limiter
    await limiter.leave()
    await thread.close()


def claim(*slots: Slot) -> Claim:
    return Claim("req", list(slots), [Charge("key:k:r", RATE, 1.0, "requests", "key")])


async def let_pass(limiter: Limiter, tries: int) -> int:
    return sum([(await limiter.take(claim())).refused is None for _ in range(tries)])


async def beating(limiter: Limiter) -> None:
    while True:
        await asyncio.sleep(0.3)
        await limiter.beat()


async def test_a_process_alone_counts_in_memory() -> None:
    async with process() as first:
        await first.join()
        for _ in range(3):
            await first.beat()
        assert first.mode == "memory"
        assert await let_pass(first, 100) == 60


async def test_who_was_there_first_hands_over_what_it_has_counted_before_the_newcomer_begins() -> None:
    async with process() as first, process() as second:
        await first.join()
        began = time.monotonic()
        assert await let_pass(first, 45) == 45
        pulse = asyncio.ensure_future(beating(first))
        await second.join()
        assert (first.mode, second.mode) == ("sql", "sql")
        passed = await let_pass(second, 100)
        spent = time.monotonic() - began
        assert 12 <= passed <= 15 + spent * 10 + 1
        assert (await first.take(claim())).refused is not None
        pulse.cancel()


async def test_places_that_were_taken_before_stay_taken_and_can_be_given_back() -> None:
    slot = Slot("key:k", 2, "key")
    async with process() as first, process() as second:
        await first.join()
        early = [claim(slot), claim(slot)]
        for one in early:
            assert (await first.take(one)).refused is None
        pulse = asyncio.ensure_future(beating(first))
        await second.join()
        assert (await second.take(claim(slot))).refused is slot
        first.release(early[0])
        await asyncio.sleep(0.1)
        assert (await second.take(claim(slot))).refused is None
        pulse.cancel()


async def test_a_newcomer_does_not_wait_for_ever_for_a_process_that_has_died() -> None:
    async with process() as first, process() as second:
        await first.join()
        began = time.monotonic()
        await second.join()
        assert 2 < time.monotonic() - began < 4
        assert second.mode == "sql"


async def test_who_is_left_alone_counts_in_memory_again_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.limits.limiter.ALONE_AFTER", 0.1)
    async with process() as first:
        async with process() as second:
            await first.join()
            pulse = asyncio.ensure_future(beating(first))
            await second.join()
            pulse.cancel()
            began = time.monotonic()
            assert await let_pass(first, 100) >= 50
        await asyncio.sleep(0.2)
        await first.beat()
        assert first.mode == "memory"
        assert await let_pass(first, 100) <= 12 + (time.monotonic() - began) * 10


async def test_without_a_database_a_process_lets_its_share_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    async with process() as limiter:
        await limiter.join()
        await limiter._share()
        limiter.shared.processes = 4
        assert await let_pass(limiter, 9) == 9

        def broken(*arguments: object) -> None:
            raise OSError("the database is away")

        with monkeypatch.context() as patched:
            patched.setattr(limiter.store, "answer", broken)
            began = time.monotonic()
            passed = await let_pass(limiter, 100)
            assert time.monotonic() - began < 0.5
        assert 10 <= passed <= 18
