import asyncio
from typing import Any

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async

from gateway.limits import claims
from providers.callers import address, network
from providers.models import ModelAlias
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK
from tests.scripted import HANG, Pause, ScriptedUpstream, head, json_answer, sse

LIMITED = ("limit", "remaining", "reset")


async def key(**fields: Any) -> str:
    return (await sync_to_async(house.client_key)("limited", **fields))[1]


def http(door: Door, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=door.url, headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=10
    )


def standing(answer: httpx.Response, kind: str) -> list[str | None]:
    return [answer.headers.get(f"x-ratelimit-{name}-{kind}") for name in LIMITED]


async def test_every_answer_says_what_is_left_and_the_refusal_how_long_to_wait(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with http(door, await key(rpm=60, burst=2)) as client:
        answers = [await client.post("/chat/completions", json=ASK) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [standing(answer, "requests")[:2] for answer in answers] == [["60", "1"], ["60", "0"], ["60", "0"]]
    assert [standing(answer, "tokens") for answer in answers] == [[None] * 3] * 3
    refused = answers[2]
    assert refused.headers["retry-after"] == "1"
    assert 800 < int(refused.headers["retry-after-ms"]) <= 1000
    assert "x-should-retry" not in refused.headers
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("requests", "rate_limit_exceeded", None)
    assert error["message"].startswith("Rate limit reached for `fast` on requests per min of the key: limit 60.")
    assert len(scripted.requests) == 2
    assert len(await door.rows(3, within=0.8)) == 2


async def test_a_refused_upstream_and_a_stream_say_what_is_left_too(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(json_answer({"error": {"message": "no"}}, 400, {"x-ratelimit-remaining-requests": "77"}))
    scripted.enqueue(sse(*golden.chunks("a")))
    async with http(door, await key(rpm=60, burst=5)) as client:
        bad = await client.post("/chat/completions", json=ASK)
        stream = await client.post("/chat/completions", json={**ASK, "stream": True})
    assert (bad.status_code, standing(bad, "requests")[:2]) == (400, ["60", "4"])
    assert (stream.status_code, standing(stream, "requests")[:2]) == (200, ["60", "3"])


async def test_a_client_is_told_not_to_wait_for_longer_than_a_minute(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.client(api_key=await key(tpm=10), max_retries=2) as client:
        await client.chat.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**ASK)
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) > 60
    assert (caught.value.type, caught.value.code) == ("tokens", "rate_limit_exceeded")
    assert "x-stainless-retry-count" not in dict(scripted.requests[-1].headers)
    assert len(scripted.requests) == 1


async def test_tokens_are_charged_by_estimate_and_settled_to_what_was_used(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)  # 29 tokens
    body = {**ASK, "max_tokens": 800}
    async with http(door, await key(tpm=1000)) as client:
        answers = [await client.post("/chat/completions", json=body) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    left = [int(standing(answer, "tokens")[1] or "") for answer in answers]
    first = left[0]
    assert 100 < first <= 200
    # Each settled call has left its 29 tokens behind, and no more of what it was charged at first.
    assert [first - 29 * before <= now <= first - 29 * before + 30 for before, now in enumerate(left)] == [True] * 4


async def test_a_call_that_no_provider_got_costs_no_tokens(door: Door, scripted: ScriptedUpstream) -> None:
    await scripted.stop()
    async with http(door, await key(tpm=1000)) as client:
        answers = [await client.post("/chat/completions", json={**ASK, "max_tokens": 900}) for _ in range(3)]
    # The third one finds the provider known to be out of order; none is refused by the limit.
    assert [answer.status_code for answer in answers] == [502, 502, 503]


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
async def test_each_end_user_has_a_bucket_of_its_own(door: Door, scripted: ScriptedUpstream, field: str) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with http(door, await key(end_user_rpm=10)) as client:
        answers = [
            await client.post("/chat/completions", json={**ASK, field: user} if user else ASK)
            for user in ("ann", "bob", "ann", "", "")
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 429]


async def test_the_keys_of_a_team_share_its_limits(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)

    def make() -> list[str]:
        from providers.models import Team

        team = Team.objects.create(name="web", rpm=60, burst=3)
        return [house.client_key(name, team=team)[1] for name in ("one", "two")]

    statuses = []
    for token in await sync_to_async(make)() * 2:
        async with http(door, token) as client:
            statuses.append((await client.post("/chat/completions", json=ASK)).status_code)
    assert statuses == [200, 200, 200, 429]


async def test_an_alias_has_limits_for_all_keys_together(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    await sync_to_async(ModelAlias.objects.filter(name="fast").update)(rpm=60, burst=1)
    await door.engine.sql(door.engine.reader.load)
    tokens = [door.key, await key()]
    statuses = []
    for token in tokens:
        async with http(door, token) as client:
            statuses.append((await client.post("/chat/completions", json=ASK)).status_code)
    assert statuses == [200, 429]


async def test_places_are_taken_by_calls_under_way_only(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [Pause(0.3), *json_answer(golden.COMPLETION)]
    async with http(door, await key(concurrency=2)) as client:
        crowd = await asyncio.gather(*(client.post("/chat/completions", json=ASK) for _ in range(5)))
        later = await client.post("/chat/completions", json=ASK)
    assert sorted(answer.status_code for answer in crowd) == [200, 200, 429, 429, 429]
    assert later.status_code == 200
    refused = next(answer for answer in crowd if answer.status_code == 429)
    assert refused.json()["error"]["message"].startswith("Too many requests at once for `fast`: the key may have 2")
    assert refused.headers["retry-after"] == "1"


async def test_who_leaves_gives_the_place_back(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [head(200, {"content-type": "text/event-stream"}), HANG]
    async with http(door, await key(concurrency=1)) as client:
        for _ in range(3):
            with pytest.raises(httpx.TimeoutException):
                await client.post("/chat/completions", json={**ASK, "stream": True}, timeout=0.2)
            assert await house.eventually(lambda: not door.engine.process.receipts)  # type: ignore[union-attr]
    assert len(scripted.requests) == 3


async def test_a_request_that_is_refused_later_has_taken_nothing(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    process = door.engine.process
    assert process is not None
    token = await key(rpm=60, burst=2, tpm=1000, concurrency=1)
    broken = pytest.MonkeyPatch()
    async with http(door, token) as client:
        broken.setattr(process.journal, "append", _disk_full)
        for _ in range(5):
            assert (await client.post("/chat/completions", json=ASK)).status_code == 503
        broken.undo()
        answer = await client.post("/chat/completions", json=ASK)
    assert (answer.status_code, standing(answer, "requests")[:2]) == (200, ["60", "1"])


def _disk_full(entry: object) -> None:
    from ledger.journal import JournalError

    raise JournalError("no space left")


@pytest.mark.parametrize(
    ("fields", "body", "status", "code"),
    [
        ({"endpoints": ["embeddings"]}, {}, 403, "key_scope"),
        ({"max_n": 2}, {"n": 3}, 400, "invalid_value"),
        ({"max_tokens": 100}, {"max_tokens": 101}, 400, "invalid_value"),
        ({"max_tokens": 100}, {"max_completion_tokens": 101}, 400, "invalid_value"),
        ({"cidrs": ["10.0.0.0/8"]}, {}, 401, "ip_not_authorized"),
        ({"cidrs": ["10.0.0.0/8", "127.0.0.0/8"], "max_n": 2, "max_tokens": 9}, {"n": 2, "max_tokens": 9}, 200, ""),
    ],
)
async def test_a_key_reaches_no_further_than_its_scope(
    door: Door, scripted: ScriptedUpstream, fields: dict[str, Any], body: dict[str, Any], status: int, code: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with http(door, await key(**fields)) as client:
        answer = await client.post("/chat/completions", json={**ASK, **body})
    assert answer.status_code == status
    assert answer.json().get("error", {}).get("code", "") == code
    assert len(scripted.requests) == (status == 200)


async def test_an_answer_without_a_bound_gets_the_bound_of_the_key(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with http(door, await key(max_tokens=77)) as client:
        await client.post("/chat/completions", json=ASK)
    assert scripted.requests[0].json()["max_completion_tokens"] == 77


@pytest.mark.parametrize(
    ("forwarded", "hops", "expected"),
    [
        (["6.6.6.6, 192.0.2.1"], 0, "127.0.0.1"),
        (["6.6.6.6, 192.0.2.1"], 1, "192.0.2.1"),
        (["6.6.6.6, 192.0.2.1", "10.0.0.1"], 2, "192.0.2.1"),
        (["192.0.2.1:4711"], 1, "192.0.2.1"),
        (["[2001:db8::1]:443"], 1, "2001:db8::1"),
        (["2001:db8::1"], 1, "2001:db8::1"),
        (["6.6.6.6, junk"], 1, "127.0.0.1"),
        (["192.0.2.1"], 2, "127.0.0.1"),
        ([], 1, "127.0.0.1"),
    ],
)
def test_s21_the_address_is_the_one_that_our_own_proxy_saw(forwarded: list[str], hops: int, expected: str) -> None:
    assert address("127.0.0.1", forwarded, hops) == expected


def test_one_customer_of_ipv6_is_one_network() -> None:
    assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"


def test_a_check_of_every_limit_is_fast_enough_for_the_way_of_a_request() -> None:
    import timeit

    from gateway.limits.memory import MemoryLimiter
    from providers.targets import AliasCard, KeyCard, Limits, TeamCard

    every = Limits(rpm=10**9, tpm=10**9, concurrency=10**6)
    card = KeyCard("k", "app", "p", b"", limits=every, team=TeamCard("t", "web", every))
    alias = AliasCard("a", "fast", limits=every)
    limiter = MemoryLimiter(iter(range(10**9)).__next__)

    def one() -> None:
        made = claims.claim(card, alias, "", "req", lambda: 100)
        assert limiter.take_now(made).refused is None
        limiter.release(made)

    seconds = min(timeit.repeat(one, number=1000, repeat=5)) / 1000
    assert seconds < 90e-6  # ten microseconds for each of nine limits
