"""A call that another route took over after a timeout may have been charged: it counts, and there has to be room."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import override_settings

from gateway.receipts import Receipt
from ledger.models import BudgetAccount, DailyRollup, PriceRow, UsageRecord
from ledger.pricing import reprice
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK
from tests.gateway.metrics.scrape import value
from tests.gateway.metrics.test_meters import numbers
from tests.gateway.test_budgets import settled
from tests.scripted import HANG, RESET, ScriptedUpstream, Step, head, json_answer

D = Decimal
LIMITS = {"first_byte": 0.6, "gap": 0.6, "total": 3.0, "connect": 1.0}
CALL = {**ASK, "max_tokens": 50}
PROMPT = 12  # tokens of it, as they are estimated: 3 of the chat, 4 of its message, 5 of its text
T = D("0.001")  # dollars: a token of the first provider's prompts
BROKEN_OFF: list[Step] = [
    head(200, {"content-type": "application/json", "content-length": "900", "x-request-id": "up_1"}) + b"x" * 90,
    HANG,
]


def configure(scripted: ScriptedUpstream, budget: str, *, routes: int = 2) -> str:
    """A token of a prompt costs T, 2 T and so on, by its route, and one of an answer 3 T."""
    names = ("first", "second", "third")[:routes]
    found = [house.provider(name, scripted.url + "/v1", timeouts=LIMITS) for name in names]
    house.alias("fast", *((row, f"{row.name}-model") for row in found), retry_after_timeout=True)
    for number, name in enumerate(names, 1):
        rates = {"input": number * 1000, "output": 3000}
        PriceRow.objects.create(provider=name, model=f"{name}-model", starts_at="2020-01-01T00:00Z", **rates)
    return house.client_key(budget=budget)[1]


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    with override_settings(GATEWAY_METRICS_TOKEN="metrics-token-of-the-tests"):
        async with house.open_house(lambda: configure(scripted, "100/total"), tmp_path) as opened:
            yield opened


async def ask(door: Door, body: dict[str, Any] = CALL) -> int:
    async with door.http() as http:
        return (await http.post("/chat/completions", json=body)).status_code


def money(row: UsageRecord) -> list[tuple[Any, ...]]:
    names = ("provider", "outcome", "tokens_in", "tokens_out", "usage_source", "cost")
    return [tuple(attempt.get(name) for name in names) for attempt in row.attempts]


def text(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


async def test_a_call_that_timed_out_is_charged_by_an_estimate_beside_the_one_that_answered(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue([HANG], json_answer(golden.COMPLETION))
    assert await ask(door) == 200
    [row] = await door.rows(1)
    answer = (19 * 2 + 10 * 3) * T
    assert (row.outcome, row.provider, row.tokens_in, row.tokens_out) == ("ok", "second", 19, 10)
    assert (row.usage_source, row.price_source, row.cost) == ("provider", "operator", answer + PROMPT * T)
    assert money(row) == [
        ("first", "upstream_timeout", PROMPT, 0, "estimated", text(PROMPT * T)),
        ("second", "ok", None, None, None, None),
    ]
    rollup = await sync_to_async(DailyRollup.objects.get)()
    assert (rollup.requests, rollup.cost, rollup.tokens_in) == (1, answer + PROMPT * T, 19)
    assert (await settled(door)).spent == answer + PROMPT * T
    route = {"alias": "fast", "provider": "second", "model": "second-model"}
    assert value(numbers(door), "gateway_cost_dollars_total", **route) == pytest.approx(float(row.cost))


async def test_what_had_come_of_an_answer_that_broke_off_is_in_the_estimate(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue(BROKEN_OFF, json_answer(golden.COMPLETION))
    assert await ask(door) == 200
    [row] = await door.rows(1)
    assert (row.upstream_request_id, row.ttft_ms is not None and row.ttft_ms >= 600) == ("", True)
    assert money(row)[0][2:] == (PROMPT, 23, "estimated", text((PROMPT + 23 * 3) * T))
    scripted.enqueue(BROKEN_OFF, json_answer(golden.COMPLETION))
    assert await ask(door, {**CALL, "max_tokens": 5}) == 200
    [_, row] = await door.rows(2)
    assert money(row)[0][2:4] == (PROMPT, 5)


async def test_the_last_call_is_charged_for_what_had_come_of_its_answer_too(
    door: Door, scripted: ScriptedUpstream
) -> None:
    cut = [*BROKEN_OFF[:1], RESET]
    scripted.enqueue(cut)
    assert await ask(door) == 502
    [row] = await door.rows(1)
    assert (row.tokens_in, row.tokens_out, row.usage_source, row.cost) == (
        PROMPT,
        23,
        "estimated",
        (PROMPT + 23 * 3) * T,
    )


@pytest.mark.parametrize(("status", "code"), [(429, 429), (500, 500), (400, 400)])
async def test_a_refusal_costs_nothing_and_leaves_what_the_timeout_may_have_cost(
    door: Door, scripted: ScriptedUpstream, status: int, code: int
) -> None:
    scripted.enqueue([HANG], json_answer({"error": {"message": "no"}}, status=status))
    assert await ask(door) == code
    [row] = await door.rows(1)
    assert (row.cost, row.usage_source, row.tokens_in) == (PROMPT * T, "none", 0)
    assert [attempt.get("cost") for attempt in row.attempts] == [text(PROMPT * T), None]


async def test_two_calls_that_timed_out_are_both_charged_and_there_is_no_third(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    async with house.open_house(lambda: configure(scripted, "100/total", routes=3), tmp_path) as door:
        scripted.default = [HANG]
        assert await ask(door) == 504
        [row] = await door.rows(1)
        assert len(scripted.requests) == 2
        assert (row.cost, row.tokens_in, row.usage_source) == (3 * PROMPT * T, PROMPT, "estimated")
        assert [attempt.get("cost") for attempt in row.attempts] == [text(PROMPT * T), None]


async def worst(door: Door, scripted: ScriptedUpstream) -> Decimal:
    """The most that one call can cost."""
    scripted.enqueue(json_answer(golden.COMPLETION))
    assert await ask(door) == 200
    [row] = await door.rows(1)
    most: Decimal = row.reserved
    return most


async def test_both_calls_are_set_aside_before_the_second_is_sent(door: Door, scripted: ScriptedUpstream) -> None:
    most = await worst(door, scripted)
    scripted.enqueue([HANG], [HANG])
    asking = asyncio.create_task(ask(door))
    assert await house.eventually(lambda: len(scripted.requests) == 3, within=3)
    assert door.engine.process is not None
    [receipt] = door.engine.process.receipts
    assert isinstance(receipt, Receipt)
    assert receipt.opened is not None
    assert receipt.opened.reserved == 2 * most
    assert sum(amount for _, _, amount in receipt.opened.charges) == 2 * most * 10**10
    assert await asking == 504
    [_, row] = await door.rows(2)
    assert row.reserved == 2 * most


async def test_a_request_whose_budget_has_no_room_for_a_second_call_keeps_its_timeout(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    async with house.open_house(lambda: configure(scripted, "100/total"), tmp_path) as door:
        most = await worst(door, scripted)
        account = await settled(door)

        def leave(room: Decimal) -> None:
            BudgetAccount.objects.filter(pk=account.pk).update(spent=account.amount - room)

        for room, status, calls in ((2 * most - T, 504, 2), (2 * most, 200, 4)):
            await settled(door)
            await sync_to_async(leave)(room)
            scripted.enqueue([HANG])
            scripted.default = json_answer(golden.COMPLETION)
            assert await ask(door) == status
            assert len(scripted.requests) == calls
            await door.rows(calls // 2 + 1)
            assert (await settled(door)).spent <= account.amount


async def test_reprice_prices_each_call_by_its_own_provider(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue([HANG], json_answer(golden.COMPLETION), [HANG], json_answer({"error": {"message": "no"}}, 429))
    assert (await ask(door), await ask(door)) == (200, 429)
    await door.rows(2)
    await settled(door)

    def again() -> tuple[list[Decimal | None], list[Any], Decimal, Decimal]:
        PriceRow.objects.filter(provider="first").update(input=10_000)
        now = datetime.now(UTC)
        for _ in range(2):
            *_, done = reprice(datetime(2020, 1, 1, tzinfo=UTC), datetime(now.year + 1, 1, 1, tzinfo=UTC))
        assert done.changed == 0
        rows = UsageRecord.objects.order_by("started_at")
        costs = [row.attempts[0]["cost"] for row in rows]
        day = sum(total.cost for total in DailyRollup.objects.all())
        return [row.cost for row in rows], costs, D(day), BudgetAccount.objects.get().spent

    costs, attempts, day, spent = await sync_to_async(again)()
    answered, refused = (19 * 2 + 10 * 3 + 10 * PROMPT) * T, 10 * PROMPT * T
    assert (costs, attempts) == ([answered, refused], [text(10 * PROMPT * T)] * 2)
    assert (day, spent) == (answered + refused, answered + refused)
