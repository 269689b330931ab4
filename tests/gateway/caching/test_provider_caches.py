"""Providers' own caches of prompts: nothing that is sent breaks them, and their tokens have prices of their own."""

import json
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from ledger.models import PriceRow
from ledger.prices import Price, cost, worst
from ledger.usage import Usage, read_messages_usage, read_usage
from tests.gateway import golden
from tests.gateway.caching.test_exact import refreshed
from tests.gateway.house import Door
from tests.scripted import ScriptedUpstream, json_answer

# Spelled as no encoder of ours would: the order, the spaces, the escapes and the numbers are the client's.
TURN = (
    '{"stream" : false,"messages": [ {"content" :"You are \\u0061 poet.","role":"system"},'
    '{"role":"user","content":"caf\\u00e9 \U0001f600", "x":1.50}%s ],"model":"lab/gpt-4o","seed": 1e2}'
)
NEXT = ',{"role":"assistant","content":"Oui"},{"role":"user","content":"Encore"}'


async def test_the_beginning_of_two_turns_is_sent_in_equal_bytes(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        for model in (b"lab/gpt-4o", b"fast"):
            for turn in (TURN % "", TURN % NEXT):
                body = turn.encode().replace(b"lab/gpt-4o", model)
                assert (await http.post("/chat/completions", content=body)).status_code == 200
    messages = [request.body.split(b'"messages":')[1] for request in scripted.requests]
    for first, second in (messages[:2], messages[2:]):
        shared = first[: first.index(b" ]")]
        assert second.startswith(shared)
        assert shared == (TURN % "").encode().split(b'"messages": ')[1].split(b" ]")[0]
    heads = [request.body.split(b'"messages"')[0] for request in scripted.requests]
    assert len(set(heads)) == 1


async def test_what_a_provider_reads_from_and_writes_to_its_cache_is_shown_and_priced(
    door: Door, scripted: ScriptedUpstream
) -> None:
    rates = {"input": 3, "cached": Decimal("0.3"), "cache_write": Decimal("3.75"), "output": 15}
    await sync_to_async(PriceRow.objects.create)(model="gpt-4o", **rates)
    await refreshed(door)
    usage = {
        "prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300},
    }  # fmt: skip
    scripted.default = json_answer({**golden.COMPLETION, "usage": usage})
    async with door.http() as http:
        answer = await http.post("/chat/completions", json={"model": "lab/gpt-4o", "messages": []})
    assert json.loads(answer.content)["usage"] == usage
    [row] = await door.rows(1)
    assert (row.tokens_in, row.tokens_cached, row.tokens_cache_write, row.tokens_out) == (1000, 600, 300, 10)
    assert row.cost == (100 * 3 + 600 * Decimal("0.3") + 300 * Decimal("3.75") + 10 * 15) / Decimal(1_000_000)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        # https://openrouter.ai/docs/guides/best-practices/prompt-caching
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 5}}, (9, 2, 5)),
        ({"prompt_tokens": 9, "cache_creation_input_tokens": 4, "cached_tokens": 3}, (9, 3, 4)),
        ({"prompt_tokens": 9, "cache_creation_input_tokens": 40, "cached_tokens": 3}, (9, 3, 6)),
    ],
)
def test_written_tokens_are_a_part_of_the_input(given: dict[str, Any], found: tuple[int, int, int]) -> None:
    usage = read_usage(given)
    assert usage is not None
    assert (usage.tokens_in, usage.tokens_cached, usage.tokens_cache_write) == found


def test_of_anthropics_answers_all_three_kinds_of_input_are_added_up() -> None:
    given = {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 5}
    assert read_messages_usage(given) == Usage(45, 2, 30, tokens_cache_write=5)


def test_without_a_rate_of_their_own_written_tokens_cost_as_input_and_the_worst_case_knows_the_rate() -> None:
    usage = Usage(10, 0, 4, tokens_cache_write=5)
    assert cost(usage, Price(input=Decimal(1), cached=Decimal(0))) == Decimal(6) / 1_000_000
    price = Price(input=Decimal(1), cached=Decimal(0), cache_write=Decimal(2))
    assert cost(usage, price) == Decimal(1 + 5 * 2) / 1_000_000
    assert worst(price, 10, 0) == Decimal(20) / 1_000_000
