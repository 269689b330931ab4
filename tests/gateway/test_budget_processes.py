"""One budget and several gateways: what they spend together is within it, and in the rows to the last unit."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.leaving import ASK, STREAM
from tests.gateway.processes import Gateway, Site
from tests.scripted import HANG, ScriptedUpstream, json_answer, sse

pytestmark = pytest.mark.slow

PROCESSES = 4
CALLS = 200
CENT = Decimal("0.01")
# Each token of output a tenth of a cent: the answer's ten are a cent.
BY_TOKEN = "input='0', output='1000'"
A_CENT = "request='0.01'"
SUMS = """
from django.db.models import Count, Sum
from ledger.models import BudgetAccount, DailyRollup, Lease
accounts = list(BudgetAccount.objects.all())
rows = UsageRecord.objects.aggregate(Sum('cost'), Count('id'))
result = {
    'spent': [str(account.spent) for account in accounts],
    'reserved': [str(account.reserved) for account in accounts],
    'leased': str(Lease.objects.aggregate(Sum('amount'))['amount__sum'] or 0),
    'rows': str(rows['cost__sum'] or 0),
    'count': rows['id__count'],
    'rollups': str(DailyRollup.objects.aggregate(Sum('cost'))['cost__sum'] or 0),
}
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def site(request: pytest.FixtureRequest, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Site]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    async with Site(tmp_path, scripted.port, url) as opened:
        yield opened


async def set_up(site: Site, rates: str, budget: str) -> None:
    await site.operate(
        "from ledger.models import PriceRow\n"
        f"PriceRow.objects.create(model='gpt-4o', starts_at='2020-01-01T00:00Z', {rates})\n"
        f"key = ClientKey.objects.get()\nkey.budget = {budget!r}\nkey.save()\nresult = key.id"
    )


@contextlib.asynccontextmanager
async def gateways(site: Site, count: int = PROCESSES) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        running = await asyncio.gather(
            *(stack.enter_async_context(Gateway(site, f"gateway-{number}")) for number in range(count))
        )
        limits = httpx.Limits(max_connections=CALLS)
        yield [await stack.enter_async_context(one.http(timeout=30, limits=limits)) for one in running]


async def sums(site: Site, count: int, *, within: float = 10.0) -> dict[str, Any]:
    """Of the tables, once there are so many rows and nothing is on lease."""
    ends = time.monotonic() + within
    while True:
        found: dict[str, Any] = await site.operate(SUMS)
        if (found["count"] >= count and Decimal(found["reserved"][0]) == 0) or time.monotonic() > ends:
            return found
        await asyncio.sleep(0.2)


def adds_up(found: dict[str, Any], spent: Decimal) -> None:
    assert [Decimal(value) for value in found["spent"]] == [spent]
    assert [Decimal(value) for value in found["reserved"]] == [Decimal(0)] == [Decimal(found["leased"])]
    assert Decimal(found["rows"]) == Decimal(found["rollups"]) == spent


async def test_r40_two_hundred_parallel_calls_of_a_cent_spend_no_more_than_their_dollar(
    site: Site, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    await set_up(site, A_CENT, "1.00/total")
    async with gateways(site) as doors:
        answers = await asyncio.gather(
            *(doors[number % PROCESSES].post("/chat/completions", json=ASK) for number in range(CALLS))
        )
        passed = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(passed) + len(refused) == CALLS
        assert {answer.json()["error"]["code"] for answer in refused} == {"insufficient_quota"}
        assert {answer.headers["x-should-retry"] for answer in refused} == {"false"}
        assert 95 <= len(passed) <= 100
        assert len(scripted.requests) == len(passed)
        adds_up(await sums(site, len(passed)), len(passed) * CENT)


async def test_r40_what_calls_do_not_use_of_their_reserve_is_there_for_others(
    site: Site, scripted: ScriptedUpstream
) -> None:
    """Each call may cost four cents and costs one: the dollar is spent nearly to its end all the same."""
    scripted.default = json_answer(golden.COMPLETION)
    await set_up(site, BY_TOKEN, "1.00/total")
    body = {**ASK, "max_completion_tokens": 40}
    passed = 0

    async def go_on(door: httpx.AsyncClient) -> None:
        nonlocal passed
        ends = time.monotonic() + 20
        while passed < 97 and time.monotonic() < ends:
            answer = await door.post("/chat/completions", json=body)
            if answer.status_code == 200:
                passed += 1
            else:
                assert answer.json()["error"]["code"] == "insufficient_quota"
                await asyncio.sleep(0.3)

    async with gateways(site) as doors:
        await asyncio.gather(*(go_on(doors[number % PROCESSES]) for number in range(CALLS)))
        assert 95 <= passed <= 100
        assert len(scripted.requests) == passed
        adds_up(await sums(site, passed), passed * CENT)


async def test_r27_a_killed_process_is_charged_what_it_had_set_aside(site: Site, scripted: ScriptedUpstream) -> None:
    """Its lease is returned by the others a minute later; here the clock of its sign of life is put back."""
    scripted.default = [*sse(*golden.chunks("a", "b")[:3], done=False)[:-1], HANG]
    await set_up(site, BY_TOKEN, "5.00/total")
    body = {**STREAM, "max_completion_tokens": 40}
    async with Gateway(site, "dies") as gateway, gateway.http(timeout=30) as http:
        held = await asyncio.gather(*(begin(http, body) for _ in range(20)))
        gateway.signal(signal.SIGKILL)
        await gateway.ended(5)
    assert len(held) == 20
    before = await site.operate(SUMS)
    assert Decimal(before["reserved"][0]) >= 20 * 4 * CENT
    await site.operate(
        "from datetime import timedelta\nfrom django.db.models import F\nfrom ledger.models import LeaseHolder\n"
        "LeaseHolder.objects.update(seen_at=F('seen_at') - timedelta(seconds=61))"
    )
    async with Gateway(site, "dies"):
        found = await sums(site, 20, within=15)
    rows = await site.operate(
        "result = [[row.outcome, row.flagged, str(row.cost), str(row.reserved), row.price_source] "
        "for row in UsageRecord.objects.all()]"
    )
    assert rows == [["lost", True, "0.04", "0.04", "reservation"]] * 20
    adds_up(found, 20 * 4 * CENT)


async def begin(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[httpx.Response, AsyncIterator[str]]:
    """A stream whose first line has come; it stays open for as long as what is returned is held."""
    request = http.build_request("POST", "/chat/completions", json=body)
    answer = await http.send(request, stream=True)
    assert answer.status_code == 200
    text = answer.aiter_text()
    await anext(text)
    return answer, text
