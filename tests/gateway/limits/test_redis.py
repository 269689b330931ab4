import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.limits import gcra
from gateway.limits.claims import Charge, Claim, Slot, Verdict, claim
from gateway.limits.redis import TIMEOUT, RedisLimiter
from providers.targets import AliasCard, KeyCard, Limits
from tests.gateway.limits import fleet
from tests.gateway.limits.fleet import RATE, check, send_all
from tests.gateway.limits.servers import RedisServer, redis_server

pytestmark = pytest.mark.redis
SECONDS = [pytest.param(12.0, marks=pytest.mark.slow), pytest.param(90.0, marks=pytest.mark.slow)]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as started:
        yield started


@pytest.fixture
async def four(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[RedisLimiter]]:
    # A machine that is busy with other tests is no fault; where one is tried, the real time counts.
    monkeypatch.setattr("gateway.limits.redis.TIMEOUT", 1.0)
    limiters = [RedisLimiter(server.url, time.monotonic) for _ in range(4)]
    for limiter in limiters:
        limiter.processes = 4
    yield limiters
    for limiter in limiters:
        await limiter.close()


def one(bucket: str = "key:k:r", cost: float = 1.0, rate: gcra.Rate = RATE, kind: str = "requests") -> Claim:
    return Claim("req", charges=[Charge(bucket, rate, cost, kind, "key")])


def passed(verdicts: list[Verdict]) -> int:
    return sum(verdict.refused is None for verdict in verdicts)


@pytest.mark.parametrize("seconds", SECONDS)
async def test_r42_four_processes_let_together_pass_what_one_may(four: list[RedisLimiter], seconds: float) -> None:
    check(await send_all(four, seconds), seconds)


async def test_ten_thousand_tries_at_once_pass_no_more_than_the_burst(four: list[RedisLimiter]) -> None:
    began = time.monotonic()
    verdicts = await asyncio.gather(*(four[n % 4].take(one()) for n in range(10_000)))
    assert 60 <= passed(verdicts) <= 60 + (time.monotonic() - began) * 10 + 1
    refused = next(verdict for verdict in verdicts if verdict.refused is not None)
    assert 0 < refused.wait <= 0.1
    assert refused.requests is not None
    assert (refused.requests.limit, refused.requests.remaining) == (600, 0)


async def test_what_a_later_bucket_refuses_no_earlier_one_has_paid_for(four: list[RedisLimiter]) -> None:
    small = gcra.rate(60, 1)
    for n in range(10):
        team, user = Charge("team:r", RATE, 1, "requests", "team"), Charge("user:r", small, 1, "requests", "end user")
        verdict = await four[n % 4].take(Claim("req", [Slot("key", 5, "key")], [team, user]))
        assert verdict.refused is (None if n == 0 else user)
    assert (await four[0].take(one("team:r"))).requests.remaining == 58  # type: ignore[union-attr]


async def test_places_are_shared_and_end_with_their_lease(
    four: list[RedisLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.limits.redis.LEASE", 0.5)
    claims = [Claim(f"req_{n}", [Slot("key:k", 3, "key")]) for n in range(8)]
    verdicts = [await four[n % 4].take(claim) for n, claim in enumerate(claims)]
    assert [verdict.refused is None for verdict in verdicts] == [True] * 3 + [False] * 5
    four[0].release(claims[0])
    await four[0].flush()
    assert (await four[3].take(claims[3])).refused is None
    assert (await four[3].take(claims[4])).refused is not None
    # Of processes that have died nobody renews the leases.
    await asyncio.sleep(0.6)
    assert passed([await four[3].take(claim) for claim in claims[4:8]]) == 3


async def test_who_leaves_while_redis_is_asked_has_taken_nothing(four: list[RedisLimiter]) -> None:
    for n in range(20):
        claim = Claim(f"req_{n}", [Slot("key:k", 2, "key")], one().charges)
        asking = asyncio.ensure_future(four[0].take(claim))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        await four[0].flush()
    verdict = await four[1].take(Claim("req", [Slot("key:k", 2, "key")], one().charges))
    assert verdict.refused is None
    assert verdict.requests is not None
    assert verdict.requests.remaining == 59


async def test_r43_tokens_are_settled_to_what_was_used(four: list[RedisLimiter]) -> None:
    rate = gcra.rate(6000, 6000)
    for cost, actual in ((1000.0, 100.0), (10.0, 100.0)) * 20:
        claim = one("key:k:t", cost, rate, "tokens")
        assert (await four[0].take(claim)).refused is None
        four[0].correct(claim, claim.charges[0], actual)
        await four[0].flush()
    began = time.monotonic()
    verdict = await four[1].take(one("key:k:t", 0.001, rate, "tokens"))
    assert verdict.tokens is not None
    assert 2000 <= verdict.tokens.remaining <= 2000 + (time.monotonic() - began + 1) * 100


async def test_r36_without_redis_each_process_lets_its_share_pass_and_nobody_gets_a_second_burst(
    server: RedisServer, four: list[RedisLimiter]
) -> None:
    before: list[Verdict] = []
    times: list[float] = []

    async def call(n: int, list_: list[Verdict]) -> None:
        verdict = await four[n % 4].take(one())
        list_.append(verdict)
        if verdict.refused is None:
            times.append(time.monotonic())

    for n in range(100):
        await call(n, before)
    assert 60 <= passed(before) <= 62
    await server.kill()
    after: list[Verdict] = []
    for n in range(300):
        await call(n, after)
        await asyncio.sleep(0.01)
    assert fleet.most_within(times, 60.0) <= 60 + (times[-1] - times[0]) * 10 + 4
    assert passed(after) >= (times[-1] - times[passed(before)]) * 10 * 0.8
    await server.start()
    await asyncio.sleep(5.1)
    for limiter in four:
        limiter.tick()
        await limiter.flush()
        claim = one("other:r")
        assert (await limiter.take(claim)).refused is None
        assert claim.alone is None


async def test_r37_a_redis_that_hangs_costs_a_request_a_tenth_of_a_second_and_soon_nothing(
    server: RedisServer, four: list[RedisLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    limiter = four[0]
    assert (await limiter.take(one())).refused is None
    monkeypatch.setattr("gateway.limits.redis.TIMEOUT", TIMEOUT)
    server.signal(signal.SIGSTOP)
    try:
        spent = []
        for _ in range(50):
            began = time.monotonic()
            assert (await limiter.take(one("wide:r", rate=gcra.rate(60_000, 6000)))).refused is None
            spent.append(time.monotonic() - began)
    finally:
        server.signal(signal.SIGCONT)
    assert max(spent[:3]) <= 0.1
    assert sorted(spent[3:])[-2] <= 0.001


async def test_r38_flushed_buckets_let_at_most_one_more_burst_pass(
    server: RedisServer, four: list[RedisLimiter]
) -> None:
    began, verdicts = time.monotonic(), []
    for n in range(400):
        verdicts.append(await four[n % 4].take(one()))
        if n == 200:
            await server.tell("FLUSHALL")
            await asyncio.sleep(0.2)
    assert passed(verdicts) <= 60 + 60 + (time.monotonic() - began) * 10 + 1


async def test_r44_a_server_whose_clock_is_set_back_blocks_nobody_for_longer_than_a_burst(
    server: RedisServer, four: list[RedisLimiter]
) -> None:
    await server.tell("SET", "gateway:{limits}:key:k:r", str(time.time() + 3600))
    verdict = await four[0].take(one())
    assert verdict.refused is not None
    assert 0 < verdict.wait <= 0.11
    await asyncio.sleep(0.11)
    await server.tell("SET", "gateway:{limits}:key:k:r", str(time.time() + 3600))


async def test_an_end_user_whose_name_ends_like_a_bucket_takes_no_place_in_another_ones(
    four: list[RedisLimiter],
) -> None:
    every = Limits(rpm=600, concurrency=2)
    card = KeyCard("k", "app", "p1", b"d", end_user_limits=every)
    for number in range(8):
        for name in ("ann", "ann:r"):
            made = claim(card, AliasCard("a1", "fast"), name, f"req_{number}_{name}", lambda: 1)
            assert (await four[number % 4].take(made)).refused is None
            assert made.alone is None
            four[number % 4].release(made)
            await four[number % 4].flush()
