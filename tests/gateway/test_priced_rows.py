"""What the ledger says of a stream, of one that its client left, and of a refusal, in tokens and in money."""

from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from ledger.models import PriceRow
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM, Leaver, request
from tests.scripted import HANG, Chunk, ScriptedUpstream, event, head, json_answer, sse

MILLION = 1_000_000
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 30,
    "total_tokens": 1030,
    "prompt_tokens_details": {"cached_tokens": 600},
}
ANSWER = [*golden.chunks("Hel", "lo", usage=False), {**golden.FRAME, "choices": [], "usage": USAGE}]
PAID = (400 * Decimal("2.5") + 600 * Decimal("0.25") + 30 * Decimal(10)) / MILLION
ASKED = {"stream_options": {"include_usage": True}}


@pytest.fixture
async def priced(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """`fast` leads to a model with a price, `lab/*` to models of which nobody knows one."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("lab/*", (lab, ""))
        PriceRow.objects.create(
            provider="lab", model="gpt-4o", starts_at="2020-01-01T00:00Z", input="2.5", cached="0.25", output="10"
        )
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("more", [ASKED, {}], ids=["usage asked for", "usage hidden"])
async def test_case_47_a_streams_row_has_its_tokens_and_its_price_with_cached_tokens_at_their_own_rate(
    priced: Door, scripted: ScriptedUpstream, more: dict[str, Any]
) -> None:
    scripted.default = sse(*ANSWER)
    async with priced.http() as http:
        answer = await http.post("/chat/completions", json={**STREAM, **more})
    assert (b'"usage":{' in answer.content) == bool(more)
    [row] = await priced.rows(1)
    assert (row.outcome, row.usage_source) == ("ok", "provider")
    assert (row.tokens_in, row.tokens_cached, row.tokens_out) == (1000, 600, 30)
    assert row.cost == PAID == Decimal("0.00145")


async def test_case_47_a_stream_that_its_client_left_costs_what_is_estimated(
    priced: Door, scripted: ScriptedUpstream
) -> None:
    events = [Chunk(event(part)) for part in ANSWER[:2]]
    scripted.default = [head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}), *events, HANG]
    client = await Leaver.come(priced, request(priced))
    await client.head()
    await client.events(2)
    client.leave("fin")
    [row] = await priced.rows(1)
    assert (row.outcome, row.usage_source) == ("client_cancelled", "estimated")
    assert (row.tokens_in, row.tokens_cached, row.tokens_out) == (12, 0, 1)
    assert row.cost == (12 * Decimal("2.5") + Decimal(10)) / MILLION


async def test_case_47_a_refusal_has_a_row_without_tokens_for_each_attempt_and_costs_nothing(
    priced: Door, scripted: ScriptedUpstream
) -> None:
    error = {"error": {"message": "slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
    scripted.default = json_answer(error, status=429, headers={"retry-after-ms": "50"})
    async with priced.client() as client:
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(**ASK)
    rows = await priced.rows(3)
    assert [(row.outcome, row.status, row.tokens_in, row.tokens_out) for row in rows] == [
        ("upstream_error", 429, 0, 0)
    ] * 3
    assert [row.cost for row in rows] == [Decimal(0)] * 3


async def test_case_47_a_model_without_a_price_is_served_and_its_cost_is_unknown(
    priced: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*ANSWER)
    async with priced.http() as http:
        answer = await http.post("/chat/completions", json={**STREAM, "model": "lab/made-here"})
    assert answer.content.endswith(b"data: [DONE]\n\n")
    [row] = await priced.rows(1)
    assert (row.upstream_model, row.tokens_in, row.tokens_cached, row.tokens_out) == ("made-here", 1000, 600, 30)
    assert row.cost is None
