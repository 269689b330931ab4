"""Calls that are cancelled at any moment cost no slot and leave no socket (on both event loops that may run us)."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from gateway.errors import Overloaded
from gateway.upstream.client import Slots, Upstream
from providers.addresses import AddressPolicy
from providers.targets import Timeouts
from tests.scripted import HANG, Chunk, Pause, Received, ScriptedUpstream, Step, head, json_answer

SLOTS = 50
CHUNKED = {"transfer-encoding": "chunked"}
Runner = Callable[[Coroutine[Any, Any, None]], None]

loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def call(upstream: Upstream, url: str) -> bytes:
    reply = await upstream.send(url, [("authorization", "Bearer x")], b"{}", Timeouts(pool=5.0))
    return await reply.read()


async def cancelled_after(seconds: float, upstream: Upstream, url: str) -> bool:
    task = asyncio.ensure_future(call(upstream, url))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return task.cancelled()


async def storm(upstream: Upstream, provider: ScriptedUpstream, chance: random.Random, most: float) -> int:
    """1,000 calls, 100 at a time, each cancelled after 0 to `most` seconds; how many were under way by then."""
    cancelled = 0
    for _ in range(10):
        moments = [chance.uniform(0, most) for _ in range(100)]
        cancelled += sum(await asyncio.gather(*(cancelled_after(moment, upstream, provider.url) for moment in moments)))
    return cancelled


async def all_well(upstream: Upstream, provider: ScriptedUpstream) -> None:
    assert (upstream.slots.free, len(upstream.slots.waiters)) == (SLOTS, 0)
    provider.default = json_answer({"ok": True})
    began = time.monotonic()
    assert await asyncio.gather(*(call(upstream, provider.url) for _ in range(100))) == [b'{"ok":true}'] * 100
    assert time.monotonic() - began < 2
    assert upstream.slots.free == SLOTS
    assert provider.open_connections <= SLOTS
    await upstream.aclose()
    await provider.idle()


@loops
def test_r02_calls_that_never_end_leave_nothing_behind(run: Runner) -> None:
    chance = random.Random(2)
    endless: list[list[Step]] = [
        [HANG],
        [b"HTTP/1.1 200 OK\r\n", HANG],
        [head(200, CHUNKED), HANG],
        [head(200, CHUNKED), Chunk(b"data: 1\n\n"), Pause(0.005), Chunk(b"data: 2\n\n"), HANG],
    ]

    async def scenario() -> None:
        async with ScriptedUpstream() as provider:
            provider.default = lambda request: chance.choice(endless)
            upstream = Upstream(AddressPolicy([], development=True), limit=SLOTS)
            assert await storm(upstream, provider, chance, 0.05) == 1000
            assert provider.requests
            await provider.idle(within=1.0)
            await all_well(upstream, provider)

    run(scenario())


@loops
def test_r02_calls_cancelled_around_their_end_lose_no_slot(run: Runner) -> None:
    chance = random.Random(3)

    def soon(request: Received) -> list[Step]:
        return [Pause(chance.uniform(0, 0.004)), head(200, CHUNKED), Chunk(b"a"), Pause(0.001), Chunk(b"b"), Chunk()]

    async def scenario() -> None:
        async with ScriptedUpstream() as provider:
            provider.default = soon
            upstream = Upstream(AddressPolicy([], development=True), limit=SLOTS)
            assert 0 < await storm(upstream, provider, chance, 0.2) < 1000
            await all_well(upstream, provider)

    run(scenario())


async def test_r18_five_hundred_calls_over_a_hundred_slots_end_in_answers_or_503() -> None:
    async with ScriptedUpstream() as provider:
        provider.default = [Pause(0.3), *json_answer({})]
        upstream = Upstream(AddressPolicy([], development=True), limit=100)

        async def once() -> str:
            try:
                reply = await upstream.send(provider.url, [], b"{}", Timeouts(pool=0.5))
                return str(reply.status) if await reply.read() else "empty"
            except Overloaded as exc:
                return f"{exc.status} {exc.headers['retry-after']}"

        began = time.monotonic()
        outcomes = await asyncio.gather(*(once() for _ in range(500)))
        assert time.monotonic() - began < 2
        assert set(outcomes) == {"200", "503 1"}
        assert outcomes.count("200") == len(provider.requests) >= 200
        assert (upstream.slots.free, len(provider.connections)) == (100, 100)
        await upstream.aclose()


async def test_slots_are_handed_on_in_order() -> None:
    slots = Slots(0)
    order: list[int] = []

    async def wait(number: int) -> None:
        await slots.wait(1)
        order.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in range(3)]
    await asyncio.sleep(0)
    for _ in range(4):
        slots.give()
    await asyncio.gather(*tasks)
    assert (order, slots.free) == ([0, 1, 2], 1)


@pytest.mark.parametrize("given_first", [True, False])
async def test_a_slot_given_in_the_moment_of_cancelling_goes_to_the_next(given_first: bool) -> None:
    slots = Slots(0)
    first, second = (asyncio.ensure_future(slots.wait(1)) for _ in range(2))
    await asyncio.sleep(0)
    if given_first:
        slots.give()
        first.cancel()
    else:
        first.cancel()
        slots.give()
    await second
    assert first.cancelled()
    assert (slots.free, len(slots.waiters)) == (0, 0)
