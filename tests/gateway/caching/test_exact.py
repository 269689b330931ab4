"""A question that was answered before is answered again, as a stream or whole, and costs nothing."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx
from asgiref.sync import sync_to_async

from ledger.models import PriceRow
from providers import snapshot
from providers.models import ModelAlias, Provider, Route
from tests.gateway import golden, house
from tests.gateway.house import Door, client_key
from tests.scripted import HANG, ScriptedUpstream, json_answer, sse

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}
STREAM = {**ASK, "stream": True}
WITH_USAGE = {**STREAM, "stream_options": {"include_usage": True}}


async def ask(http: httpx.AsyncClient, body: dict[str, Any] | bytes, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await http.post("/chat/completions", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def refreshed(door: Door) -> None:
    """Until the process knows what has just been configured; its own look would come within a second."""
    engine = door.engine
    assert engine.process is not None
    await engine.sql(engine.reader.refresh)
    await engine.sql(engine.process.prices.refresh, snapshot.current())


def state(answer: httpx.Response) -> str:
    return str(answer.headers.get("x-gateway-cache"))


async def test_a_stream_recorded_once_is_served_again_with_equal_events(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    async with door.http() as http:
        first, second, third = [await ask(http, body) for body in (STREAM, STREAM, WITH_USAGE)]
        fourth = await ask(http, WITH_USAGE)
    assert (state(first), state(second), state(third)) == ("miss", "hit", "hit")
    assert second.content == first.content
    assert first.content.endswith(b"data: [DONE]\n\n")
    assert third.content == fourth.content == b"".join(sse_bytes(*golden.chunks("Hel", "lo")))
    assert second.headers["content-type"] == first.headers["content-type"]
    assert second.headers["cache-control"] == first.headers["cache-control"]
    assert (second.headers["age"], second.headers["x-gateway-provider"]) == ("0", "cache")
    assert "age" not in first.headers
    assert len(scripted.requests) == 1


def sse_bytes(*chunks: dict[str, Any]) -> list[bytes]:
    return [b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n" for chunk in chunks] + [
        b"data: [DONE]\n\n"
    ]


async def test_a_recorded_stream_is_a_whole_completion_for_who_asks_without_stream(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"))
    async with door.http() as http:
        await ask(http, STREAM)
        answer = await ask(http, ASK)
    assert state(answer) == "hit"
    assert answer.headers["content-type"] == "application/json"
    message = {"role": "assistant", "content": "Hello", "refusal": None}
    assert answer.json() == {
        **golden.FRAME,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": golden.USAGE,
    }
    assert len(scripted.requests) == 1


async def test_a_whole_answer_is_served_again_and_as_a_stream(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answers = [await ask(http, body) for body in (ASK, ASK, STREAM, WITH_USAGE)]
    assert [state(answer) for answer in answers] == ["miss", "hit", "hit", "hit"]
    assert answers[1].content == answers[0].content
    assert b'"content":"Hello! How can I assist you today?"' in answers[2].content
    assert answers[2].content.endswith(b"data: [DONE]\n\n")
    assert b"usage" not in answers[2].content
    assert b'"total_tokens":29' in answers[3].content
    assert len(scripted.requests) == 1


async def test_a_hit_is_a_row_that_cost_nothing_and_says_what_it_saved(door: Door, scripted: ScriptedUpstream) -> None:

    await sync_to_async(PriceRow.objects.create)(model="gpt-4o", input=Decimal(1), output=Decimal(2))
    await refreshed(door)
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        for body in (ASK, ASK, STREAM):
            await ask(http, body)
    rows = await door.rows(3)
    cost = Decimal(19 * 1 + 10 * 2) / 1_000_000
    assert [(row.provider, row.cache, row.cost, row.saved) for row in rows] == [
        ("lab", "miss", cost, None),
        ("cache", "hit", Decimal(0), cost),
        ("cache", "hit", Decimal(0), cost),
    ]
    assert [(row.outcome, row.status, row.tokens_in, row.tokens_out, row.usage_source) for row in rows[1:]] == [
        ("ok", 200, 19, 10, "cache")
    ] * 2
    assert [row.sent for row in rows] == [True, False, False]
    assert [row.upstream_model for row in rows] == ["gpt-4o"] * 3


EQUAL = [
    b'{"messages":[{"content":"Hello!","role":"user"}],"model":"fast"}',
    b'{ "model" : "fast",\n"messages": [ {"role":"user", "content":"\\u0048ello!"} ] }',
    json.dumps({**ASK, "user": "someone", "safety_identifier": "x", "metadata": {"a": "b"}}).encode(),
    json.dumps({**ASK, "stream": False, "prompt_cache_key": "k"}).encode(),
]


async def test_requests_that_mean_the_same_are_equal(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        await ask(http, ASK)
        assert [state(await ask(http, body)) for body in EQUAL] == ["hit"] * 4


PAIRS = [
    (b'"temperature":1', b'"temperature":1.0', "hit"),
    (b'"temperature":0.5', b'"temperature":5e-1', "hit"),
    (b'"seed":1152921504606846976', b'"seed":1152921504606846977', "miss"),
    (b'"temperature":0.5', b'"temperature":0.6', "miss"),
    (b'"max_tokens":5', b'"max_tokens":6', "miss"),
    (b'"x":null', b'"y":null', "miss"),
    (b'"x":[1,2]', b'"x":[2,1]', "miss"),
    (b'"x":"1"', b'"x":1', "miss"),
    (b'"x":true', b'"x":1', "miss"),
]


async def test_a_difference_in_any_field_is_another_question(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        for n, (one, other, found) in enumerate(PAIRS):
            for field in (one, other):
                answer = await ask(http, b'{"model":"fast","messages":[%d],%b}' % (n, field))
            assert state(answer) == found, other


LEFT_OUT: list[dict[str, Any]] = [
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"functions": [{"name": "f"}]},
    {"n": 2},
    {"temperature": 1.1},
    {"store": True},
    {"web_search_options": {"search_context_size": "low"}},
]


async def test_what_is_left_out_by_policy_is_asked_every_time(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answers = [await ask(http, {**ASK, **more}) for more in LEFT_OUT for _ in range(2)]
    assert [state(answer) for answer in answers] == ["bypass"] * 12
    assert len(scripted.requests) == 12
    assert [row.cache for row in await door.rows(12)] == ["bypass"] * 12


async def test_a_name_that_stands_twice_deep_inside_is_compared_with_nothing(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    double = b'{"model":"fast","messages":[{"role":"user","content":"evil","content":"Hello!"}]}'
    async with door.http() as http:
        assert state(await ask(http, double)) == "bypass"
        assert state(await ask(http, ASK)) == "miss"
        assert state(await ask(http, double)) == "bypass"


async def test_the_requests_own_cache_control_is_honoured(door: Door, scripted: ScriptedUpstream) -> None:
    answers = [{**golden.COMPLETION, "id": f"chatcmpl-{n}"} for n in range(4)]
    scripted.enqueue(*map(json_answer, answers))
    seen = []
    async with door.http() as http:
        for control in ("no-store", "", "max-age=60", "no-cache", "", "Max-Age=0", "no-store", ""):
            answer = await ask(http, ASK, **({"cache-control": control} if control else {}))
            seen.append((state(answer), answer.json()["id"][-1]))
            if len(scripted.queue) == 0:
                scripted.default = json_answer({**golden.COMPLETION, "id": "chatcmpl-9"})
    assert seen == [
        ("bypass", "0"), ("miss", "1"), ("hit", "1"), ("miss", "2"), ("hit", "2"), ("miss", "3"), ("bypass", "9"),
        ("hit", "3"),
    ]  # fmt: skip


async def test_an_alias_that_keeps_nothing_says_nothing(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        answers = [await ask(http, {**ASK, "model": "lab/gpt-4o"}) for _ in range(2)]
    assert [state(answer) for answer in answers] == ["None", "None"]
    assert len(scripted.requests) == 2
    assert [(row.cache, row.saved) for row in await door.rows(2)] == [("", None)] * 2


HALF = golden.chunks("Hel")[:2]
BAD: list[Any] = [
    json_answer({"error": {"message": "no"}}, status=400),
    json_answer({"error": {"message": "no"}}),
    json_answer({**golden.COMPLETION, "choices": [{**golden.COMPLETION["choices"][0], "finish_reason": None}]}),
    json_answer({**golden.COMPLETION, "choices": []}),
]
BAD_STREAMS: list[Any] = [
    sse(*HALF),  # [DONE] without a finish reason
    sse(*golden.chunks("Hello"), done=False),  # a finish reason without [DONE]
    sse(*HALF, done=False),
    sse(*HALF, {"error": {"message": "broken"}}),
    sse(golden.chunks("Hel")[0], golden.chunk({}, "error"), done=True),
]


async def test_only_a_complete_answer_is_kept(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        for n, script in enumerate(BAD):
            scripted.enqueue(script)
            question = {**ASK, "seed": n}
            await http.post("/chat/completions", json=question)
            answer = await ask(http, question)
            assert state(answer) == "miss", n
            assert answer.json() == golden.COMPLETION


async def test_only_a_complete_stream_is_kept(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("Hello"))
    async with door.http() as http:
        for n, script in enumerate(BAD_STREAMS):
            scripted.enqueue(script)
            question = {**STREAM, "seed": n}
            await http.post("/chat/completions", json=question)
            answer = await ask(http, question)
            assert state(answer) == "miss", n
            assert b"Hello" in answer.content


async def set_up(door: Door, **alias: Any) -> None:
    await sync_to_async(lambda: ModelAlias.objects.filter(name="fast").update(**alias))()
    await refreshed(door)


async def test_each_key_has_its_own_answers_unless_the_alias_shares_them(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    other = (await sync_to_async(client_key)("other"))[1]
    async with door.http() as http:
        mine = [state(await ask(http, ASK)) for _ in range(2)]
        theirs = state(await ask(http, ASK, authorization=f"Bearer {other}"))
        await set_up(door, cache_scope="shared")
        shared = [state(await ask(http, ASK)), state(await ask(http, ASK, authorization=f"Bearer {other}"))]
    assert (mine, theirs, shared) == (["miss", "hit"], "miss", ["miss", "hit"])


async def test_a_team_shares_answers_with_its_own_keys_only(door: Door, scripted: ScriptedUpstream) -> None:
    from providers.models import Team

    scripted.default = json_answer(golden.COMPLETION)
    team = await sync_to_async(Team.objects.create)(name="web")
    keys = [(await sync_to_async(client_key)(name, team=team))[1] for name in ("a", "b")]
    await set_up(door, cache_scope="team")
    async with door.http() as http:
        states = [state(await ask(http, ASK, authorization=f"Bearer {token}")) for token in (*keys, door.key)]
    assert states == ["miss", "hit", "miss"]


async def test_a_key_may_turn_it_off_shorten_it_and_must_turn_it_on_where_the_alias_says_so(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    off = (await sync_to_async(client_key)("off", cache="off"))[1]
    short = (await sync_to_async(client_key)("short", cache="on", cache_ttl=1))[1]
    async with door.http() as http:

        async def states(token: str) -> list[str]:
            return [state(await ask(http, ASK, authorization=f"Bearer {token}")) for _ in range(2)]

        assert await states(off) == ["bypass", "bypass"]
        assert await states(short) == ["miss", "hit"]
        await asyncio.sleep(1.1)
        assert await states(short) == ["miss", "hit"]
        await set_up(door, cache="opt_in")
        assert await states(door.key) == ["bypass", "bypass"]
        assert (await states(short))[1] == "hit"


async def test_a_call_that_timed_out_is_charged_though_an_old_answer_stood_in(
    door: Door, scripted: ScriptedUpstream
) -> None:
    def configure() -> None:
        PriceRow.objects.create(provider="lab", model="gpt-4o", starts_at="2020-01-01T00:00Z", input="1000", output="0")
        Provider.objects.update(timeouts={"first_byte": 0.5})

    await sync_to_async(configure)()
    await set_up(door, cache_ttl=1, cache_stale=60)
    scripted.enqueue(json_answer(golden.COMPLETION), [HANG])
    async with door.http() as http:
        await ask(http, ASK)
        await asyncio.sleep(1.1)
        assert state(await ask(http, ASK)) == "stale"
    row = (await door.rows(2))[1]
    assert (row.outcome, row.provider, row.usage_source) == ("ok", "cache", "cache")
    assert (row.attempts[0]["outcome"], row.attempts[0]["cost"]) == ("upstream_timeout", "0.009")
    assert row.cost == Decimal("0.009")


async def test_an_old_answer_stands_in_for_a_provider_that_fails_and_for_nothing_else(
    door: Door, scripted: ScriptedUpstream
) -> None:
    await set_up(door, cache_ttl=1, cache_stale=60)
    scripted.enqueue(json_answer(golden.COMPLETION))
    scripted.default = json_answer({"error": {"message": "down"}}, status=500)
    async with door.http() as http:
        await ask(http, ASK)
        await asyncio.sleep(1.1)
        stale = await ask(http, ASK)
        strict = await http.post("/chat/completions", json=ASK, headers={"cache-control": "no-cache"})
        scripted.default = json_answer(golden.COMPLETION)
        again = await ask(http, ASK)
    assert (state(stale), stale.headers["age"], stale.json()) == ("stale", "1", golden.COMPLETION)
    assert (strict.status_code, state(strict)) == (500, "miss")
    assert state(again) == "miss"
    row = (await door.rows(2))[1]
    assert (row.outcome, row.cache, row.provider, row.cost, row.sent) == ("ok", "stale", "cache", Decimal(0), True)
    assert [attempt["provider"] for attempt in row.attempts] == ["lab", "cache"]


async def test_a_hit_takes_a_request_of_its_limits_and_no_tokens(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    limited = (await sync_to_async(client_key)("limited", rpm=600, tpm=100, max_tokens=20))[1]
    async with door.http() as http:
        answers = [await ask(http, ASK, authorization=f"Bearer {limited}") for _ in range(4)]
    assert [state(answer) for answer in answers] == ["miss", "hit", "hit", "hit"]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["59", "58", "57", "56"]
    assert "x-ratelimit-remaining-tokens" in answers[0].headers
    assert "x-ratelimit-remaining-tokens" not in answers[1].headers


async def test_what_stands_in_for_a_route_out_of_order_is_found_there(door: Door, scripted: ScriptedUpstream) -> None:
    def two_routes() -> None:
        down = house.provider("down", "http://127.0.0.1:9/v1")
        Route.objects.filter(alias__name="fast").update(position=1)
        Route.objects.create(alias=ModelAlias.objects.get(name="fast"), provider=down, model="gpt-4o", position=0)

    await sync_to_async(two_routes)()
    await refreshed(door)
    scripted.default = json_answer(golden.COMPLETION)
    process = door.engine.process
    assert process is not None
    async with door.http() as http:
        for n in range(40):
            await ask(http, {**ASK, "seed": n})
            if process.breakers.open:
                break
        assert process.breakers.open
        states = [state(await ask(http, ASK)) for _ in range(2)]
    assert states == ["miss", "hit"]
