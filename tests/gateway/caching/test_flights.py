"""Of equal requests at once one is sent; the others get what it brings, and do not depend on its client."""

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async

from gateway.caching import flights
from ledger.models import PriceRow
from tests.gateway import golden
from tests.gateway.caching.test_exact import refreshed
from tests.gateway.house import Door, client_key, eventually
from tests.gateway.leaving import Leaver, request
from tests.scripted import RESET, Chunk, Pause, ScriptedUpstream, Step, head, json_answer, sse

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}
STREAM = {**ASK, "stream": True}
CHUNKS = golden.chunks("Hel", "lo")


def slowly(script: list[Step], seconds: float = 0.3) -> list[Step]:
    return [Pause(seconds), *script]


async def post(http: httpx.AsyncClient, body: dict[str, Any]) -> httpx.Response:
    return await http.post("/chat/completions", json=body)


def all_at_once(http: httpx.AsyncClient, body: dict[str, Any], count: int) -> "asyncio.Future[list[httpx.Response]]":
    return asyncio.gather(*(post(http, body) for _ in range(count)))


def many() -> dict[str, Any]:
    return {"limits": httpx.Limits(max_connections=200), "timeout": 30}


async def under_way(door: Door, count: int) -> None:
    """Until so many wait for another's answer."""
    found = door.engine.process
    assert found is not None
    assert await eventually(
        lambda: sum(flight.followers for flight in found.cache.flights.values()) == count, within=10
    )


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_a_hundred_equal_calls_at_once_make_one_upstream_call(
    door: Door, scripted: ScriptedUpstream, body: dict[str, Any]
) -> None:
    await sync_to_async(PriceRow.objects.create)(model="gpt-4o", input=Decimal(1), output=Decimal(2))
    await refreshed(door)
    answer = sse(*CHUNKS, gap=0.05) if "stream" in body else slowly(json_answer(golden.COMPLETION))
    scripted.default = answer
    async with door.http(**many()) as http:
        answers = await all_at_once(http, body, 100)
        later = await post(http, body)
    assert len(scripted.requests) == 1
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert later.content == answers[0].content
    assert Counter(answer.headers["x-gateway-cache"] for answer in answers) == {"miss": 1, "hit": 99}
    rows = await door.rows(101)
    assert Counter((row.provider, row.cache, row.outcome, row.status) for row in rows) == {
        ("lab", "miss", "ok", 200): 1,
        ("cache", "hit", "ok", 200): 100,
    }
    tokens_out = 3 if "stream" in body else 10
    cost = Decimal(19 + 2 * tokens_out) / 1_000_000
    assert {(row.cost, row.saved) for row in rows} == {(cost, None), (Decimal(0), cost)}
    assert {(row.tokens_in, row.tokens_out) for row in rows} == {(19, tokens_out)}
    process = door.engine.process
    assert process is not None
    assert process.cache.flights == {}
    assert process.memory.held == process.cache.memory.held


@pytest.mark.parametrize("when", ["before the head", "in the stream"])
async def test_the_leaders_leaving_leaves_ninety_nine_answers(
    door: Door, scripted: ScriptedUpstream, when: str
) -> None:
    scripted.default = slowly(sse(*CHUNKS, gap=0.25), 1.0 if when == "before the head" else 0.0)
    leader = await Leaver.come(door, request(door, STREAM))
    process = door.engine.process
    assert process is not None
    assert await eventually(lambda: bool(process.cache.flights))
    async with door.http(**many()) as http:
        followers = all_at_once(http, STREAM, 99)
        await under_way(door, 99)
        if when == "in the stream":
            await leader.events(1)
        leader.leave("rst")
        answers = await followers
    assert len(scripted.requests) == 1
    assert {(answer.status_code, answer.content.endswith(b"data: [DONE]\n\n")) for answer in answers} == {(200, True)}
    rows = await door.rows(100)
    assert Counter((row.outcome, row.cache) for row in rows) == {("client_cancelled", "miss"): 1, ("ok", "hit"): 99}
    # All of the call is the leader's to pay, though it did not stay for the answer.
    paid = next(row for row in rows if row.cache == "miss")
    assert (paid.tokens_in, paid.tokens_out, paid.usage_source) == (19, 3, "provider")


async def test_the_leader_of_a_whole_answer_may_leave_too(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = slowly(json_answer(golden.COMPLETION), 1.0)
    leader = await Leaver.come(door, request(door, ASK))
    process = door.engine.process
    assert process is not None
    assert await eventually(lambda: bool(process.cache.flights))
    async with door.http() as http:
        follower = asyncio.create_task(post(http, ASK))
        await under_way(door, 1)
        leader.leave("fin")
        answer = await follower
    assert (answer.json(), len(scripted.requests)) == (golden.COMPLETION, 1)
    assert sorted((row.outcome, row.cache) for row in await door.rows(2)) == [
        ("client_cancelled", "miss"),
        ("ok", "hit"),
    ]


async def test_when_all_have_left_the_upstream_is_closed(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks(*["x"] * 200), gap=0.1)
    leavers = [await Leaver.come(door, request(door, STREAM)) for _ in range(3)]
    for leaver in leavers:
        await leaver.events(1)
    await under_way(door, 2)
    for leaver in leavers:
        leaver.leave("rst")
        await asyncio.sleep(0.05)
    left = time.monotonic()
    await scripted.idle(within=2.0)
    assert time.monotonic() - left < 1.5
    assert {row.outcome for row in await door.rows(3)} == {"client_cancelled"}
    process = door.engine.process
    assert process is not None
    assert (process.cache.flights, process.memory.held, len(process.receipts)) == ({}, 0, 0)


async def test_followers_are_served_chunk_by_chunk_while_the_stream_comes(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("a", "b", "c"), gap=0.3)
    leader = await Leaver.come(door, request(door, STREAM))
    await leader.events(1)
    follower = await Leaver.come(door, request(door, STREAM))
    await follower.events(2)
    assert len(scripted.requests) == 1
    process = door.engine.process
    assert process is not None
    [flight] = process.cache.flights.values()
    assert not flight.stream.ended
    for one in (leader, follower):
        assert (await one.reader.readuntil(b"0\r\n\r\n")).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        one.leave("fin")


async def test_of_those_whose_leader_failed_one_tries_again(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(slowly([RESET]))
    scripted.default = slowly(json_answer(golden.COMPLETION))
    async with door.http(**many()) as http:
        answers = await all_at_once(http, ASK, 20)
    assert Counter(answer.status_code for answer in answers) == {502: 1, 200: 19}
    assert len(scripted.requests) == 2


async def test_where_the_second_fails_too_the_others_are_told_so(door: Door, scripted: ScriptedUpstream) -> None:
    # A status that nobody tries again by itself.
    scripted.default = slowly(json_answer({"error": {"message": "no", "code": "not_so"}}, status=400))
    async with door.http(**many()) as http:
        answers = await all_at_once(http, ASK, 20)
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(400, "not_so")}
    assert len(scripted.requests) == 2


async def test_a_stream_that_breaks_off_ends_for_all_with_an_error(door: Door, scripted: ScriptedUpstream) -> None:
    chunks: list[Step] = [Chunk(part) for part in (b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n',)]
    start = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    scripted.default = [start, *chunks, Pause(0.5), RESET]
    async with door.http(**many()) as http:
        answers = await all_at_once(http, STREAM, 10)
    assert len(scripted.requests) == 1
    for answer in answers:
        assert b'"stream_interrupted"' in answer.content
        assert b"[DONE]" not in answer.content
    assert {row.outcome for row in await door.rows(10)} == {"truncated"}


async def test_a_leader_who_may_not_pay_hands_over_to_who_may(door: Door, scripted: ScriptedUpstream) -> None:
    from providers.models import Team

    team = await sync_to_async(Team.objects.create)(name="web")
    poor = (await sync_to_async(client_key)("poor", team=team, budget="0.000001/day"))[1]
    await sync_to_async(PriceRow.objects.create)(model="gpt-4o", input=Decimal(1), output=Decimal(2))
    rich = (await sync_to_async(client_key)("rich", team=team, budget="100/day"))[1]
    from providers.models import ModelAlias

    await sync_to_async(lambda: ModelAlias.objects.filter(name="fast").update(cache_scope="team"))()
    await refreshed(door)
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answers = await asyncio.gather(
            *(
                http.post("/chat/completions", json=ASK, headers={"authorization": f"Bearer {token}"})
                for token in (poor, rich)
            )
        )
    assert [answer.status_code for answer in answers] == [429, 200]
    assert len(scripted.requests) == 1


async def test_a_stream_too_large_to_keep_is_held_as_far_as_its_readers_are_apart(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "MAX_BODY", 100_000)
    monkeypatch.setattr(flights, "WINDOW", 50_000)
    scripted.default = sse(*golden.chunks(*["x" * 10_000] * 100), gap=0.01)
    process = door.engine.process
    assert process is not None
    most = 0
    async with door.http(**many()) as http:
        answers = all_at_once(http, STREAM, 5)
        while not answers.done():
            most = max(most, process.memory.held)
            await asyncio.sleep(0.005)
        again = await post(http, STREAM)
    assert {len(answer.content) for answer in await answers} == {len(again.content)}
    assert len(again.content) > 1_000_000
    assert 50_000 < most < 150_000
    # Nothing of it was kept, and nothing is still held.
    assert again.headers["x-gateway-cache"] == "miss"
    assert process.memory.held == 0


async def test_the_fastest_reader_of_a_stream_too_large_to_keep_waits_for_the_slowest(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "MAX_BODY", 100_000)
    monkeypatch.setattr(flights, "WINDOW", 50_000)
    started: list[flights.Broadcast] = []
    real = flights.Broadcast.start

    def start(self: flights.Broadcast, first: bytes) -> None:
        started.append(self)
        real(self, first)

    monkeypatch.setattr(flights.Broadcast, "start", start)
    scripted.default = sse(*golden.chunks(*["x" * 20_000] * 1000))
    slow = await Leaver.come(door, request(door, STREAM), window=4096)
    await slow.head()
    assert await eventually(lambda: bool(started) and not started[0].keepable, within=5)
    await asyncio.sleep(1)
    # What was held when it became too large, and a read of the socket's: not the other 19 MB.
    assert 0 < started[0].size <= 250_000
    process = door.engine.process
    assert process is not None
    assert 0 < process.memory.held <= 100_000 + 2000
    slow.leave("rst")
    await scripted.idle(within=3)
    assert await eventually(lambda: process.memory.held == 0)


async def test_a_leader_with_an_idempotency_key_goes_on_without_its_client(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = slowly(json_answer(golden.COMPLETION), 0.6)
    body = json.dumps(ASK).encode()
    asking = request(door, body, f"Content-Length: {len(body)}", "Idempotency-Key: left")
    client = await Leaver.come(door, asking)
    assert await eventually(lambda: bool(scripted.requests))
    client.leave("rst")
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source) == ("ok", "provider")
    async with door.http() as http:
        again = await http.post("/chat/completions", content=body, headers={"idempotency-key": "left"})
    assert (again.status_code, again.headers.get("idempotent-replayed")) == (200, "true")
    assert len(scripted.requests) == 1
