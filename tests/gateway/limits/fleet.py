"""Several processes that limit together, calls that reach them, and what of these an ideal limiter lets pass."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from django.db import connections

from gateway.limits import gcra
from gateway.limits.claims import Charge, Claim, Verdict
from gateway.limits.sql import SqlLimiter
from gateway.limits.store import Store

PROCESSES = 4
LIMIT, BURST = 600, 60
RATE = gcra.rate(LIMIT, BURST)
A_SECOND = 25.0  # calls that come: two and a half times what may pass

Arrivals = list[tuple[float, int]]  # (seconds, process), in order


class Taking(Protocol):
    def take(self, claim: Claim) -> Awaitable[Verdict]: ...


def paced(seconds: float, process: Callable[[int, random.Random], int]) -> Arrivals:
    draw = random.Random(42)
    return [(n / A_SECOND, process(n, draw)) for n in range(int(seconds * A_SECOND))]


def even(seconds: float) -> Arrivals:
    return paced(seconds, lambda n, _: n % PROCESSES)


def skewed(seconds: float) -> Arrivals:
    return paced(seconds, lambda _, draw: draw.choices(range(PROCESSES), (85, 9, 4, 2))[0])


def rotating(seconds: float) -> Arrivals:
    """All calls at one process for a while, then all at the next."""
    return paced(seconds, lambda n, _: int(n / A_SECOND / max(seconds / 12, 0.6)) % PROCESSES)


def scattered(seconds: float) -> Arrivals:
    draw = random.Random(7)
    times = sorted(draw.uniform(0, seconds) for _ in range(int(seconds * A_SECOND)))
    return [(at, draw.randrange(PROCESSES)) for at in times]


def hoarding(seconds: float) -> Arrivals:
    """One call a process, silence, then all at once: whoever was given a share of the burst would have it twice."""
    begun: Arrivals = [(0.0, process) for process in range(PROCESSES)]
    flood = [(seconds / 2 + n / (4 * A_SECOND), n % PROCESSES) for n in range(int(seconds * 2 * A_SECOND))]
    return begun + flood


SPREADS = {spread.__name__: spread for spread in (even, skewed, rotating, scattered, hoarding)}


@dataclass
class Passed:
    """When calls came and which passed, seconds of one clock."""

    came: list[float]
    passed: list[float]


def ideal(came: Sequence[float]) -> int:
    tat, count = 0.0, 0
    for now in came:
        if not gcra.wait(RATE, tat, now, 1):
            tat, count = gcra.charged(RATE, tat, now, 1), count + 1
    return count


def most_within(passed: Sequence[float], span: float) -> int:
    """The largest number of calls that passed in any span of so many seconds."""
    most, first = 0, 0
    for last, at in enumerate(passed):
        while at - passed[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


async def send(limiters: Sequence[Taking], bucket: str, arrivals: Arrivals) -> Passed:
    """Let each call come at its time; a call counts for the moment at which it was let pass."""
    begin, tasks = time.monotonic(), []
    result = Passed([], [])

    async def call(process: int) -> None:
        verdict = await limiters[process].take(Claim("req", charges=[Charge(bucket, RATE, 1.0, "requests", "key")]))
        if verdict.refused is None:
            result.passed.append(time.monotonic())

    for at, process in arrivals:
        if (left := begin + at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        result.came.append(time.monotonic())
        tasks.append(asyncio.ensure_future(call(process)))
    await asyncio.gather(*tasks)
    return result


async def send_all(limiters: Sequence[Taking], seconds: float, prefix: str = "") -> dict[str, Passed]:
    """Every spread at the same time, each in a bucket of its own."""
    names = list(SPREADS)
    results = await asyncio.gather(*(send(limiters, f"{prefix}key:{name}:r", SPREADS[name](seconds)) for name in names))
    return dict(zip(names, results, strict=True))


def check(results: dict[str, Passed], seconds: float, *, seen_late: float = 0.0) -> None:
    """What must hold: in no span more than its share and one burst, and nearly all of what is allowed.

    `seen_late`: seconds by which a client may see one answer later than another.
    """
    for name, result in results.items():
        for span in sorted({1.0, seconds / 6, seconds / 2, seconds * 2 / 3, seconds, 60.0}):
            allowed = LIMIT / 60 * (span + seen_late) + BURST
            most = most_within(result.passed, span)
            assert most <= allowed, f"{name}: {most} in {span} s, where {allowed} may pass"
        best = ideal(result.came)
        assert len(result.passed) >= 0.95 * best, f"{name}: {len(result.passed)} of {best}"


class Thread:
    """A process's SQL thread: its jobs one after the other, on a connection of its own."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.jobs = 0

    async def run(self, job: Callable[..., Any], *arguments: Any) -> Any:
        self.jobs += 1
        return await asyncio.get_running_loop().run_in_executor(self.pool, job, *arguments)

    async def paced(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """As the engine does it: five milliseconds between commits."""
        return await self.run(_paced, job, *arguments)

    async def close(self) -> None:
        await self.run(connections.close_all)
        self.pool.shutdown()


def _paced(job: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return job(*arguments)
    finally:
        time.sleep(0.005)


@asynccontextmanager
async def sql_limiters(count: int = PROCESSES) -> AsyncIterator[list[SqlLimiter]]:
    threads = [Thread() for _ in range(count)]
    limiters = [SqlLimiter(Store(f"p{n}"), thread.paced, time.monotonic) for n, thread in enumerate(threads)]
    for limiter in limiters:
        limiter.processes = count
    try:
        yield limiters
    finally:
        for limiter in limiters:
            await limiter.flush()
        for thread in threads:
            await thread.close()


def charges(bucket: str, count: int) -> Iterator[Claim]:
    for _ in range(count):
        yield Claim("req", charges=[Charge(bucket, RATE, 1.0, "requests", "key")])
