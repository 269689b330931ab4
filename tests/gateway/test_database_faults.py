"""The database is refused, hangs, loses connections or is locked: who needs no budget is served, no row is lost."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster
from tests.gateway import golden
from tests.gateway.leaving import ASK
from tests.gateway.processes import Gateway, Site
from tests.scripted import ScriptedUpstream, json_answer

# The answer's ten tokens are a cent, and forty may be asked for: what a lease is left with never does for a call.
SETUP = """
from ledger.models import PriceRow
PriceRow.objects.create(model='gpt-4o', starts_at='2020-01-01T00:00Z', input='0', output='1000')
result = house.client_key('hard', budget=BUDGET)[1]
"""
BODY = {**ASK, "max_completion_tokens": 40}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


class Callers:
    """Calls with the key that has no budget (`soft`) and with the one that has (`hard`)."""

    def __init__(self, gateway: Gateway, hard: str, http: httpx.AsyncClient) -> None:
        self.gateway, self.http = gateway, http
        self.hard_key = bearer(hard)
        self.sent: list[tuple[int, float]] = []

    async def soft(self) -> tuple[int, float]:
        return await self.call({})

    async def hard(self) -> tuple[int, float]:
        return await self.call(self.hard_key)

    async def call(self, headers: dict[str, str]) -> tuple[int, float]:
        """The status, and how long it took (s)."""
        began = time.monotonic()
        answer = await self.http.post("/chat/completions", json=BODY, headers=headers)
        self.last = answer
        found = answer.status_code, time.monotonic() - began
        self.sent.append(found)
        return found

    async def until_served(self, call: Callable[[], Any], *, within: float) -> None:
        ends = time.monotonic() + within
        while (await call())[0] != 200:
            assert time.monotonic() < ends
            await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(
    tmp_path: Path, scripted: ScriptedUpstream, url: str = "", budget: str = "0.80/total"
) -> AsyncIterator[tuple[Site, Callers]]:
    scripted.default = json_answer(golden.COMPLETION)
    async with Site(tmp_path, scripted.port, url) as site:
        hard = await site.operate(SETUP.replace("BUDGET", repr(budget)))
        async with Gateway(site, "one") as gateway, gateway.http(timeout=30) as http:
            callers = Callers(gateway, hard, http)
            assert (await callers.soft())[0] == (await callers.hard())[0] == 200
            yield site, callers


async def all_there(site: Site, scripted: ScriptedUpstream, *, within: float = 15.0) -> None:
    """A row for each call that the provider has seen, and no other."""
    count = len(scripted.requests)
    rows = await site.rows(count, within=within)
    assert len({row["id"] for row in rows if row["sent"]}) == count
    assert len([row for row in rows if row["sent"]]) == count


@pytest.mark.slow
@pytest.mark.postgres
async def test_r33_while_the_database_is_refused_only_hard_budgets_are(
    tmp_path: Path, scripted: ScriptedUpstream, cluster: Cluster
) -> None:
    async with serving(tmp_path, scripted, cluster.url) as (site, callers):
        await asyncio.sleep(2)
        await asyncio.to_thread(cluster.kill)
        for _ in range(10):
            status, seconds = await callers.hard()
            assert (status, seconds < 1) == (503, True)
            status, seconds = await callers.soft()
            assert (status, seconds < 0.5) == (200, True)
            await asyncio.sleep(0.4)
        await asyncio.to_thread(cluster.start)
        await callers.until_served(callers.hard, within=5)
        site.process.kill()  # the operator's connection is gone too
        await site.process.wait()
        async with Site.again(site) as anew:
            await all_there(anew, scripted)


@pytest.mark.slow
@pytest.mark.postgres
async def test_r34_while_the_database_hangs_nobody_waits_for_it(
    tmp_path: Path, scripted: ScriptedUpstream, cluster: Cluster
) -> None:
    async with serving(tmp_path, scripted, cluster.url) as (site, callers):
        new = bearer(await site.operate("result = house.client_key('new')[1]"))
        await asyncio.sleep(2)
        cluster.stop()
        try:
            began = time.monotonic()
            hard = [asyncio.ensure_future(callers.hard()) for _ in range(5)]
            soft = [await callers.soft() for _ in range(40)]
            assert {status for status, _ in soft} == {200}
            # Nothing that the SQL thread waits for holds up the loop.
            assert sorted(seconds for _, seconds in soft)[-2] < 0.1
            found = await asyncio.gather(*hard)
            assert {status for status, _ in found} == {503}
            assert max(seconds for _, seconds in found) < 2.2
            assert time.monotonic() - began < 8
            status, waited = await callers.call(new)
            assert (status, waited < 2.2) == (503, True)
            assert callers.last.json()["error"]["code"] == "database_unavailable"
            assert callers.last.headers["retry-after"] == "5"
        finally:
            cluster.go_on()
        await callers.until_served(callers.hard, within=5)
        assert (await callers.call(new))[0] == 200
        await all_there(site, scripted)


@pytest.mark.slow
@pytest.mark.postgres
async def test_r34_a_connection_that_hangs_for_ever_is_replaced(
    tmp_path: Path, scripted: ScriptedUpstream, cluster: Cluster
) -> None:
    async with serving(tmp_path, scripted, cluster.url) as (site, callers):
        new = bearer(await site.operate("result = house.client_key('new')[1]"))
        site.process.kill()
        await site.process.wait()
        await asyncio.sleep(2)
        assert await asyncio.to_thread(cluster.stop_connections) >= 1
        status, waited = await callers.call(new)
        assert (status, waited < 2.2) == (503, True)
        assert (await callers.soft())[0] == 200
        await callers.until_served(callers.hard, within=15)
        assert (await callers.call(new))[0] == 200
        assert b"database_connection_cut" in callers.gateway.output.read_bytes()
        async with Site.again(site) as anew:
            await all_there(anew, scripted)


@pytest.mark.slow
@pytest.mark.postgres
async def test_r35_connections_that_are_terminated_lose_no_row_and_few_calls(
    tmp_path: Path, scripted: ScriptedUpstream, cluster: Cluster
) -> None:
    async with serving(tmp_path, scripted, cluster.url, "500/total") as (site, callers):
        site.process.kill()
        await site.process.wait()
        ended = 0

        async def terminate() -> None:
            nonlocal ended
            while ended < 100:
                ended += await asyncio.to_thread(cluster.terminate_backends)
                await asyncio.sleep(0.03)

        killing = asyncio.ensure_future(terminate())
        calls: list[asyncio.Future[tuple[int, float]]] = []
        while not killing.done() or len(calls) < 500:
            calls.append(asyncio.ensure_future(callers.hard() if len(calls) % 2 else callers.soft()))
            await asyncio.sleep(0.01)
            assert len(calls) < 3000
        answers = await asyncio.gather(*calls)
        assert ended >= 100
        failed = [status for status, _ in answers if status != 200]
        assert len(failed) <= len(answers) / 100
        async with Site.again(site) as anew:
            await all_there(anew, scripted)


@pytest.mark.slow
@pytest.mark.postgres
async def test_r47_what_was_served_while_the_database_was_away_is_in_it_soon_after(
    tmp_path: Path, scripted: ScriptedUpstream, cluster: Cluster
) -> None:
    """1,500 calls, a twentieth of five minutes at a hundred a second; the time for them is a twentieth of a minute."""
    async with serving(tmp_path, scripted, cluster.url) as (site, callers):
        await asyncio.sleep(1)
        await asyncio.to_thread(cluster.kill)
        for _ in range(30):
            assert {status for status, _ in await asyncio.gather(*(callers.soft() for _ in range(50)))} == {200}
        site.process.kill()
        await site.process.wait()
        await asyncio.to_thread(cluster.start)
        back = time.monotonic()
        async with Site.again(site) as anew:
            await all_there(anew, scripted, within=15)
            assert time.monotonic() - back < 12  # of which the operator's process takes some to start
            again = await anew.rows(len(scripted.requests) + 1, within=1)
            assert len(again) == len(scripted.requests)


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "expected"), [(3, 200), (10, 503)])
async def test_r31_a_lock_that_somebody_else_holds_is_waited_for_and_then_refused(
    tmp_path: Path, scripted: ScriptedUpstream, seconds: int, expected: int
) -> None:
    async with serving(tmp_path, scripted) as (site, callers):
        await asyncio.sleep(2)
        foreign = sqlite3.connect(site.folder / "gateway.sqlite3", isolation_level=None, timeout=10)
        foreign.execute("BEGIN EXCLUSIVE")
        try:
            hard = [asyncio.ensure_future(callers.hard()) for _ in range(4)]
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                status, waited = await callers.soft()
                assert (status, waited < 0.5) == (200, True)
                await asyncio.sleep(0.1)
        finally:
            foreign.execute("ROLLBACK")
            foreign.close()
        assert {status for status, _ in await asyncio.gather(*hard)} == {expected}
        await callers.until_served(callers.hard, within=5)
        await all_there(site, scripted)


@pytest.mark.slow
async def test_r30_many_writers_in_four_processes_never_see_a_locked_database(
    tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    """Each call takes a lease of its own and leaves two lines; 50 clients a process for five seconds."""
    scripted.default = json_answer(golden.COMPLETION)
    async with Site(tmp_path, scripted.port) as site:
        hard = await site.operate(SETUP.replace("BUDGET", "'900/total'"))
        doors = [Gateway(site, f"gateway-{number}") for number in range(4)]
        await asyncio.gather(*(door.__aenter__() for door in doors))
        try:
            statuses: list[int] = []
            ends = time.monotonic() + 5

            async def write(http: httpx.AsyncClient) -> None:
                while time.monotonic() < ends:
                    answer = await http.post(
                        "/chat/completions", json=BODY, headers={"authorization": f"Bearer {hard}"}
                    )
                    statuses.append(answer.status_code)

            limits = httpx.Limits(max_connections=60)
            clients = [door.http(timeout=30, limits=limits) for door in doors]
            await asyncio.gather(*(write(clients[number % 4]) for number in range(200)))
            assert set(statuses) == {200}
            await all_there(site, scripted, within=20)
            for client in clients:
                await client.aclose()
        finally:
            await asyncio.gather(*(door.__aexit__() for door in doors))
        assert [door.port for door in doors if b"locked" in door.output.read_bytes()] == []
        assert len(statuses) > 200
