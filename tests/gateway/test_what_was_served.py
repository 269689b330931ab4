"""The ledger says what the provider served, whoever left when, with the provider's usage and without it."""

import asyncio
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from ledger.models import BudgetAccount, PriceRow, UsageRecord
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import STREAM, Leaver, request
from tests.scripted import HANG, Act, Chunk, Connection, Pause, Script, ScriptedUpstream, event, head, json_answer, sse

CHUNKS = 100
# 90 words: about 120 tokens, by OpenAI's rule that 75 words are 100 (https://help.openai.com/en/articles/4936856).
PROMPT = (
    "The gateway keeps an account of every request that it lets pass, and it must be right when a client leaves in the "
    "middle of an answer, when the provider does not say how much it has written, and when the process itself comes to "
    "a sudden end. Nobody should be able to read a long answer and to pay for a short one, and nobody should have to "
    "pay for words that were never written. So the words are counted on their way, and the count is close to what the "
    "provider would have said itself."
)
PROMPT_TOKENS = round(len(PROMPT.split()) / 0.75)
ANSWER = [f" {word}" for word in PROMPT.split()]
BODY: dict[str, Any] = {**STREAM, "messages": [{"role": "user", "content": PROMPT}]}


class Counting(ScriptedUpstream):
    """A provider that counts the tokens that it has sent: one for each piece of text, as it would bill them."""

    served = 0

    async def play(self, script: Script, transport: asyncio.Transport, record: Connection) -> None:
        for step in script:
            await super().play([step], transport, record)
            said = isinstance(step, Chunk) and b'"content":"' in step.data and b'"content":""' not in step.data
            # What is written to a connection whose peer has closed it, nobody has been served.
            self.served += said and record.left_at is None
            if isinstance(step, Act):
                return


@pytest.fixture
async def provider() -> AsyncIterator[Counting]:
    async with Counting() as upstream:
        yield upstream


@pytest.fixture
async def opened(transactional_db: None, tmp_path: Path, provider: Counting) -> AsyncIterator[Door]:
    """A dollar a million input tokens, ten a million of output."""

    def configure() -> str:
        lab = house.provider("lab", provider.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(model="gpt-4o", starts_at="2020-01-01T00:00Z", input="1", output="10")
        return house.client_key(budget="5/total")[1]

    async with house.open_house(configure, tmp_path) as door:
        yield door


def paced(gap: float) -> Script:
    """The head, who speaks, then a word each `gap` seconds; silence at the end."""
    frames = golden.chunks(*[f" word{number}" for number in range(CHUNKS)])[: CHUNKS + 1]
    steps: list[Any] = [head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})]
    for frame in frames:
        steps += [Chunk(event(frame)), Pause(gap)]
    return [*steps, HANG]


def near(found: int, served: int) -> bool:
    """Within a tenth, and within the one chunk that may be on its way."""
    return abs(found - served) <= max(1, served / 10)


def price(row: UsageRecord) -> Decimal:
    return (Decimal(row.tokens_in) + 10 * Decimal(row.tokens_out)) / 1_000_000


async def spent(rows: list[UsageRecord]) -> None:
    """The budget has moved by what stands in the rows, and by nothing else."""
    account = await sync_to_async(BudgetAccount.objects.get)()
    assert account.spent == sum(row.cost for row in rows)
    ends = time.monotonic() + 5
    while account.reserved and time.monotonic() < ends:
        await asyncio.sleep(0.1)
        account = await sync_to_async(BudgetAccount.objects.get)()
    assert (account.reserved, account.spent) == (0, sum(row.cost for row in rows))


@pytest.mark.parametrize("chunks", [0, 1, 50, 99])
async def test_a_client_that_leaves_pays_for_what_was_served(opened: Door, provider: Counting, chunks: int) -> None:
    provider.default = paced(0.02)
    client = await Leaver.come(opened, request(opened, BODY))
    await client.head()
    await client.events(chunks + 1 if chunks else 0)
    client.leave("rst")
    rows = await opened.rows(1)
    await provider.idle(2)
    [row] = rows
    assert (row.outcome, row.usage_source) == ("client_cancelled", "estimated")
    assert chunks - 1 <= row.tokens_out
    assert near(row.tokens_out, provider.served), (row.tokens_out, provider.served)
    assert abs(row.tokens_in - PROMPT_TOKENS) <= PROMPT_TOKENS / 10
    assert row.cost == price(row)
    await asyncio.sleep(0.5)
    assert [found.id for found in await opened.rows(2, within=0)] == [row.id]
    await spent(rows)


async def test_crowds_that_leave_leave_one_row_each_and_the_sum_is_what_was_served(
    opened: Door, provider: Counting
) -> None:
    provider.default = paced(0.01)

    async def leave(number: int) -> None:
        client = await Leaver.come(opened, request(opened, BODY))
        await client.head()
        await client.events(1 + (0, 1, 50, 99)[number % 4])
        client.leave("fin" if number % 2 else "rst")

    await asyncio.gather(*(leave(number) for number in range(20)))
    rows = await opened.rows(20)
    await provider.idle(2)
    assert len({row.id for row in rows}) == len(rows) == 20
    total = sum(row.tokens_out for row in rows)
    assert abs(total - provider.served) <= provider.served / 10
    await spent(rows)


async def test_a_stream_without_usage_is_counted_within_a_tenth(opened: Door, provider: Counting) -> None:
    frames = golden.chunks(*ANSWER, usage=False)
    provider.default = sse(*frames)
    async with opened.http() as http:
        assert (await http.post("/chat/completions", json=BODY)).text.endswith("data: [DONE]\n\n")
    [row] = await opened.rows(1)
    assert (row.outcome, row.usage_source) == ("ok", "estimated")
    assert (row.tokens_out, provider.served) == (len(ANSWER), len(ANSWER))
    assert abs(row.tokens_in - PROMPT_TOKENS) <= PROMPT_TOKENS / 10
    assert row.cost == price(row)


async def test_a_stream_in_large_pieces_without_usage_is_counted_by_its_letters(
    opened: Door, provider: Counting
) -> None:
    """As Gemini and others send it: some thirty words an event."""
    words = ANSWER * 5
    pieces = ["".join(words[start : start + 30]) for start in range(0, len(words), 30)]
    provider.default = sse(*golden.chunks(*pieces, usage=False))
    async with opened.http() as http:
        assert (await http.post("/chat/completions", json=BODY)).status_code == 200
    [row] = await opened.rows(1)
    expected = len(words) / 0.75
    assert abs(row.tokens_out - expected) <= expected / 10


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_whole_answer_without_usage_is_counted_within_a_tenth(
    opened: Door, provider: Counting, streaming: bool
) -> None:
    answer = {name: value for name, value in golden.COMPLETION.items() if name != "usage"}
    message = {"role": "assistant", "content": PROMPT}
    provider.default = json_answer({**answer, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    async with opened.http() as http:
        assert (await http.post("/chat/completions", json={**BODY, "stream": streaming})).status_code == 200
    [row] = await opened.rows(1)
    assert (row.outcome, row.usage_source) == ("ok", "estimated")
    assert abs(row.tokens_out - PROMPT_TOKENS) <= PROMPT_TOKENS / 10
    assert row.cost == price(row)


async def test_usage_that_the_provider_gave_is_taken_as_it_is(opened: Door, provider: Counting) -> None:
    provider.default = sse(*golden.chunks(*ANSWER))
    async with opened.http() as http:
        await http.post("/chat/completions", json=BODY)
    [row] = await opened.rows(1)
    assert (row.usage_source, row.tokens_in, row.tokens_out, row.cost) == ("provider", 19, 3, Decimal("0.000049"))
    await spent([row])
