"""Budgets through the front door: what a call may cost is set aside before it is sent, what it did cost is taken."""

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError

from ledger import leases
from ledger.budgets import Budgets
from ledger.models import BudgetAccount, DailyRollup, Lease, PriceRow, UsageRecord
from providers.targets import BudgetCard
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM
from tests.scripted import ScriptedUpstream, json_answer, sse

CENT = Decimal("0.01")


def priced(**rates: Any) -> None:
    PriceRow.objects.create(provider="lab", model="gpt-4o", starts_at="2020-01-01T00:00Z", **rates)


@pytest.fixture
async def a_cent_a_call(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Each call costs a cent and the key has five."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("free", (lab, "unknown"))
        priced(request="0.01")
        return house.client_key(budget="0.05/total")[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def account(**values: Any) -> BudgetAccount:
    return await sync_to_async(lambda: BudgetAccount.objects.get(**values))()


async def settled(door: Door) -> BudgetAccount:
    """The only account, once nothing is out on leases any more."""
    for _ in range(100):
        found = await account()
        if not found.reserved:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{found.reserved} is still on lease")


async def test_case_30_a_spent_budget_is_refused_and_the_openai_package_does_not_ask_again(
    a_cent_a_call: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with a_cent_a_call.client(max_retries=2) as client:
        for _ in range(5):
            await client.chat.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(**ASK)
    assert (refused.value.code, refused.value.type) == ("insufficient_quota", "insufficient_quota")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert len(scripted.requests) == 5
    rows = await a_cent_a_call.rows(5)
    assert [(row.cost, row.reserved, row.price_source) for row in rows] == [(CENT, CENT, "operator")] * 5
    found = await settled(a_cent_a_call)
    assert (found.spent, found.amount) == (Decimal("0.05"), Decimal("0.05"))
    assert rows[0].accounts == [found.id]
    rollup = await sync_to_async(DailyRollup.objects.get)()
    assert (rollup.requests, rollup.cost, rollup.alias, rollup.provider) == (5, Decimal("0.05"), "fast", "lab")
    assert (rollup.model, rollup.tokens_in, rollup.tokens_out) == ("gpt-4o", 5 * 19, 5 * 10)


async def test_a_call_that_fails_before_it_is_sent_costs_nothing(
    a_cent_a_call: Door, scripted: ScriptedUpstream
) -> None:
    await scripted.stop()
    async with a_cent_a_call.http() as http:
        for _ in range(8):  # after a few of them the provider is known to be out of order
            assert (await http.post("/chat/completions", json=ASK)).status_code in (502, 503)
    rows = await a_cent_a_call.rows(8)
    assert {(row.cost, row.reserved) for row in rows} == {(Decimal(0), CENT)}
    assert (await settled(a_cent_a_call)).spent == 0


async def test_what_the_provider_refuses_costs_nothing(a_cent_a_call: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"error": {"message": "no"}}, 400)
    async with a_cent_a_call.http() as http:
        for _ in range(8):
            assert (await http.post("/chat/completions", json=ASK)).status_code == 400
    assert {row.cost for row in await a_cent_a_call.rows(8)} == {Decimal(0)}
    assert (await settled(a_cent_a_call)).spent == 0


async def test_an_unknown_price_is_null_and_never_nothing(a_cent_a_call: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with a_cent_a_call.http() as http:
        assert (await http.post("/chat/completions", json={**ASK, "model": "free"})).status_code == 200
    [row] = await a_cent_a_call.rows(1)
    assert (row.cost, row.reserved, row.price_source) == (None, None, "")
    rollup = await sync_to_async(DailyRollup.objects.get)()
    assert (rollup.unpriced, rollup.cost) == (1, 0)


@pytest.fixture
async def by_token(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """A dollar a million input tokens, two a million of output; half for the cached."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("free", (lab, "unknown"))
        priced(input="1", output="2", cached="0.5")
        return house.client_key(budget="1/day", unknown_price="block")[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_a_call_without_a_bound_gets_one_and_the_worst_case_is_set_aside(
    by_token: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with by_token.http() as http:
        sent = await http.post("/chat/completions", json=ASK)
    assert sent.status_code == 200
    assert scripted.requests[0].json()["max_completion_tokens"] == 4096
    [row] = await by_token.rows(1)
    # Every byte of the body a token, sixteen a message; and all of the bound.
    assert row.reserved == (Decimal(len(sent.request.content) + 16) + 2 * 4096) / 1_000_000
    # 15 of the 19 are not cached.
    assert row.cost == (Decimal(15) + 4 * Decimal("0.5") + 10 * 2) / 1_000_000
    assert (await settled(by_token)).spent == row.cost


async def test_a_key_that_blocks_unknown_prices_is_refused_before_anything_is_sent(
    by_token: Door, scripted: ScriptedUpstream
) -> None:
    async with by_token.http() as http:
        refused = await http.post("/chat/completions", json={**ASK, "model": "free"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "price_unknown")
    assert refused.headers["x-should-retry"] == "false"
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("policy", "status", "cost", "source"),
    [
        ("block", 403, None, ""),
        ("0.01", 200, Decimal("0.01"), "charge"),
        ("allow", 200, None, ""),
    ],
)
async def test_a_price_without_a_rate_for_the_answer_is_none_for_a_chat(
    by_token: Door, scripted: ScriptedUpstream, policy: str, status: int, cost: Decimal | None, source: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def configure() -> str:
        PriceRow.objects.create(provider="lab", model="unknown", starts_at="2020-01-01T00:00Z", input="1")
        return house.client_key(name="other", budget="1/day", unknown_price=policy)[1]

    by_token.key = await sync_to_async(configure)()
    await by_token.engine._price()
    async with by_token.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "model": "free"})
    assert answer.status_code == status
    sent = int(status == 200)
    assert len(scripted.requests) == sent
    assert [(row.cost, row.price_source) for row in await by_token.rows(sent)] == [(cost, source)] * sent


async def test_a_stream_is_charged_by_what_the_provider_counted(by_token: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("a", "b"))
    async with by_token.http() as http:
        assert (await http.post("/chat/completions", json=STREAM)).status_code == 200
    [row] = await by_token.rows(1)
    assert row.cost == (Decimal(19) + 3 * 2) / 1_000_000
    assert (await settled(by_token)).spent == row.cost


async def test_what_is_unused_of_a_lease_goes_back_after_a_second(by_token: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with by_token.http() as http:
        await http.post("/chat/completions", json=ASK)
    await by_token.rows(1)
    assert (await account()).reserved == (await sync_to_async(Lease.objects.get)()).amount > 0
    assert (await settled(by_token)).reserved == 0
    assert (await sync_to_async(UsageRecord.objects.get)()).cost == (await account()).spent


async def test_a_lease_that_could_not_be_ended_is_ended_the_next_time(transactional_db: None) -> None:
    now, away = [0.0], [True]

    async def run(job: Any, *args: object) -> Any:
        if job is leases.close and away[0]:
            raise OperationalError
        return await sync_to_async(job)(*args)

    budgets = Budgets(run, lambda: now[0])
    card = BudgetCard("key:k1", "key", Decimal(1), "total")
    budgets.release(await budgets.take([card], "", 10**8, 0.0))
    now[0] = 20.0
    await budgets.tend(0.0)  # what is unused goes back
    with pytest.raises(OperationalError):
        await budgets.tend(19.0)
    assert await sync_to_async(Lease.objects.count)() == 1
    away[0] = False
    await budgets.tend(19.0)
    assert await sync_to_async(Lease.objects.count)() == 0
    assert (await account()).reserved == 0
