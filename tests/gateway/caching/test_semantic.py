"""A question that means the same as an answered one is answered by it, and never across what else may differ."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.db import DatabaseError

from gateway.caching import vectors
from gateway.caching.meanings import Meanings
from gateway.caching.opening import open_cache
from gateway.errands import embed
from gateway.errors import GatewayError
from gateway.models import KeptQuestion
from gateway.process import Memory
from providers.checks import check_semantic_aliases
from providers.models import Route
from tests.gateway import golden, house
from tests.gateway.caching.test_exact import refreshed
from tests.gateway.house import Door, client_key
from tests.scripted import Received, ScriptedUpstream, Step, json_answer, sse

PARIS, CAPITAL, WEATHER = "What is the capital of France?", "Which city is France's capital?", "Will it rain?"
CITY = "Name the capital city of France."
DIRECTIONS = {
    PARIS: [1.0, 0.0, 0.0],
    CAPITAL: [0.98, 0.19899749, 0.0],
    WEATHER: [0.0, 1.0, 0.0],
    CITY: [0.98, 0.19, 0.0],
}


def provider(request: Received) -> list[Step]:
    asked = request.json()
    if "input" in asked:
        data = [{"object": "embedding", "embedding": DIRECTIONS[asked["input"]], "index": 0}]
        usage = {"prompt_tokens": 7, "total_tokens": 7}
        return json_answer({"object": "list", "data": data, "model": "embedder", "usage": usage})
    return sse(*golden.chunks("Paris")) if asked.get("stream") else json_answer(golden.COMPLETION)


def configure(scripted: ScriptedUpstream) -> str:
    scripted.default = provider
    lab = house.provider("lab", scripted.url + "/v1")
    house.alias("fast", (lab, "gpt-4o"), cache="on", cache_semantic="embed", cache_similarity=0.95)
    house.alias("embed", (lab, "embedder"))
    return house.client_key(aliases=["fast"])[1]


@pytest.fixture
async def door(database: str, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    async with house.open_house(lambda: configure(scripted), tmp_path) as opened:
        cache = cache_of(opened)
        assert await house.eventually(lambda: cache.compared_by == database)
        yield opened


def cache_of(door: Door) -> Any:
    assert door.engine.process is not None
    return door.engine.process.cache


def forget(door: Door) -> None:
    """What this process knows of questions, as if it were another one with the same answers in memory."""
    process = door.engine.process
    assert process is not None
    process.cache.semantic = open_cache(process, embed).semantic


async def ask(http: httpx.AsyncClient, question: str, **more: Any) -> httpx.Response:
    messages = [*more.pop("before", []), {"role": "user", "content": question}]
    headers = more.pop("headers", {})
    answer = await http.post("/chat/completions", json={"model": "fast", "messages": messages, **more}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def found(answer: httpx.Response) -> tuple[str, str | None]:
    return answer.headers["x-gateway-cache"], answer.headers.get("x-gateway-cache-distance")


def asked_of(scripted: ScriptedUpstream) -> list[str]:
    return [request.json()["model"] for request in scripted.requests]


async def test_a_question_that_means_the_same_gets_the_answer_and_its_distance(
    door: Door, scripted: ScriptedUpstream
) -> None:
    async with door.http() as http:
        first, same = await ask(http, PARIS), await ask(http, CAPITAL)
        other, again = await ask(http, WEATHER), await ask(http, PARIS)
        stream = await ask(http, CAPITAL, stream=True)
    assert [found(answer) for answer in (first, same, other, again, stream)] == [
        ("miss", None), ("hit", "0.020000"), ("miss", None), ("hit", None), ("hit", "0.020000"),
    ]  # fmt: skip
    assert same.content == first.content
    assert stream.content.endswith(b"data: [DONE]\n\n")
    assert asked_of(scripted) == ["embedder", "gpt-4o", "embedder", "embedder", "gpt-4o", "embedder"]
    rows = await door.rows(9)
    assert [(row.endpoint, row.alias, row.cache, row.tokens_in) for row in rows if row.endpoint == "embeddings"] == [
        ("embeddings", "embed", "", 7)
    ] * 4
    assert {row.key_name for row in rows} == {"app"}
    assert [row.provider for row in rows if row.alias == "fast"] == ["lab", "cache", "lab", "cache", "cache"]


DIFFERENT: list[dict[str, Any]] = [
    {"before": [{"role": "system", "content": "Answer in verse."}]},
    {"before": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]},
    {"temperature": 0.5},
    {"max_tokens": 5},
    {"response_format": {"type": "json_object"}},
]


async def test_it_is_never_found_across_another_system_prompt_turn_parameter_or_tool(
    door: Door, scripted: ScriptedUpstream
) -> None:
    async with door.http() as http:
        await ask(http, PARIS)
        for more in DIFFERENT:
            assert found(await ask(http, CAPITAL, **more)) == ("miss", None), more
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert found(await ask(http, CAPITAL, tools=tools)) == ("bypass", None)
        picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
        content: Any = [{"type": "text", "text": PARIS}, picture]
        assert found(await ask(http, content)) == ("miss", None)
        assert found(await ask(http, CAPITAL, headers={"cache-control": "no-cache"})) == ("miss", None)


async def test_one_key_is_never_given_what_another_asked(door: Door, scripted: ScriptedUpstream) -> None:
    other = (await sync_to_async(client_key)("other"))[1]
    async with door.http() as http:
        await ask(http, PARIS)
        assert found(await ask(http, CAPITAL, headers={"authorization": f"Bearer {other}"})) == ("miss", None)


async def test_without_an_embedding_the_question_is_answered_all_the_same(
    door: Door, scripted: ScriptedUpstream
) -> None:
    async with door.http() as http:
        await ask(http, PARIS)
        for bad in (
            json_answer({"error": {"message": "no"}}, status=500),
            json_answer({"object": "list", "data": []}),
            json_answer({"object": "list", "data": [{"embedding": [0.0, 0.0], "index": 0}]}),
        ):
            scripted.enqueue(bad)
            assert found(await ask(http, CAPITAL, seed=len(scripted.requests))) == ("miss", None)


async def test_a_key_at_its_limit_is_not_embedded_and_still_served(door: Door, scripted: ScriptedUpstream) -> None:
    narrow = (await sync_to_async(client_key)("narrow", rpm=60, burst=1, concurrency=1))[1]
    async with door.http() as http:
        answer = await ask(http, PARIS, headers={"authorization": f"Bearer {narrow}"})
    assert found(answer) == ("miss", None)
    assert asked_of(scripted) == ["gpt-4o"]


async def test_equal_questions_at_once_are_embedded_once(door: Door, scripted: ScriptedUpstream) -> None:
    async with door.http() as http:
        await asyncio.gather(*(ask(http, PARIS) for _ in range(20)))
    assert asked_of(scripted) == ["embedder", "gpt-4o"]


async def test_another_process_finds_the_question_in_the_database(
    door: Door, scripted: ScriptedUpstream, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door.http() as http:
        await ask(http, PARIS)
        await cache_of(door).tend()
        row = await sync_to_async(KeptQuestion.objects.get)()
        assert len(row.vector) == 12
        forget(door)
        with monkeypatch.context() as patch:
            if database == "pgvector":
                patch.delattr("gateway.caching.meanings._read")
            assert found(await ask(http, CAPITAL)) == ("hit", "0.020000")
        await sync_to_async(KeptQuestion.objects.update)(vector=b"hostile!")
        forget(door)
        assert found(await ask(http, CAPITAL)) == ("miss", None)


async def test_a_nearer_question_whose_answer_is_gone_does_not_hide_one_that_has_its_own(
    door: Door, scripted: ScriptedUpstream
) -> None:
    async with door.http() as http:
        assert found(await ask(http, PARIS)) == ("miss", None)
        assert found(await ask(http, CITY, headers={"cache-control": "no-cache"})) == ("miss", None)
        await cache_of(door).tend()
        forget(door)
        memory = cache_of(door).memory
        memory.drop(list(memory._answers)[-1])
        assert found(await ask(http, CAPITAL)) == ("hit", "0.020000")


async def test_what_another_model_made_of_a_question_is_not_compared(door: Door, scripted: ScriptedUpstream) -> None:
    async with door.http() as http:
        await ask(http, PARIS)
        await cache_of(door).tend()
        await sync_to_async(Route.objects.filter(model="embedder").update)(model="embedder-2")
        await refreshed(door)
        assert found(await ask(http, CAPITAL)) == ("miss", None)


async def test_the_same_question_kept_twice_at_once_is_written_once(door: Door, scripted: ScriptedUpstream) -> None:
    cache = cache_of(door)
    async with door.http() as http:
        await ask(http, PARIS)
        await ask(http, PARIS, headers={"cache-control": "no-cache"})
    await cache.tend()
    assert await sync_to_async(KeptQuestion.objects.count)() == 1


async def test_what_could_not_be_written_is_written_later(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    meanings = cache_of(door).semantic.meanings
    one = vectors.direction([1.0, 0.0, 0.0])
    with monkeypatch.context() as patch:
        patch.setattr("gateway.caching.meanings._write", broken)
        meanings.add(bytes(32), bytes(32), one, 60)
        with pytest.raises(GatewayError):
            await meanings.tend()
    await meanings.tend()
    assert await sync_to_async(KeptQuestion.objects.count)() == 1
    assert await meanings.nearest(bytes(32), one) == [(bytes(32), pytest.approx(1.0))]


def broken(*_: Any) -> None:
    raise DatabaseError


async def test_a_place_keeps_its_newest_questions_in_the_database_too(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.caching.meanings.ENTRIES", 5)
    meanings = cache_of(door).semantic.meanings
    for n in range(12):
        meanings.add(bytes(32), bytes([n] * 32), vectors.direction([math.cos(n), math.sin(n)]), 60)
        await meanings.tend()
    names = await sync_to_async(lambda: sorted(KeptQuestion.objects.values_list("answer", flat=True)))()
    assert [bytes.fromhex(name)[0] for name in names] == [7, 8, 9, 10, 11]


async def test_the_questions_of_one_place_and_of_all_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.caching.meanings.CAPACITY", 100_000)
    account = Memory()
    meanings = Meanings(account, None, lambda: 0.0)
    for n in range(3000):
        meanings.add(bytes([n % 7]), n.to_bytes(32, "big"), vectors.direction([math.cos(n), math.sin(n)]), 60)
    assert 50_000 < account.held <= 100_000
    assert await meanings.nearest(bytes([2999 % 7]), vectors.direction([math.cos(2999), math.sin(2999)])) != []


def test_the_nearest_of_a_thousand_is_found() -> None:
    rng = random.Random(7)

    def any_() -> list[float]:
        return [rng.gauss(0, 1) for _ in range(256)]

    among = [vectors.direction(any_()) for _ in range(1000)]
    for place in (0, 500, 999):
        near = [number + rng.gauss(0, 0.2) for number in among[place].numbers.tolist()]
        wanted = vectors.direction([number + rng.gauss(0, 0.01) for number in among[place].numbers.tolist()])
        [(at, similarity), *others] = vectors.nearest(wanted, among, 4)
        assert at == place
        assert similarity == pytest.approx(wanted.similarity(among[place]))
        assert vectors.direction(near).similarity(among[place]) < similarity
        assert [one for _, one in others] == sorted((one for _, one in others), reverse=True)


def test_only_vectors_with_a_direction_are_compared() -> None:
    one = vectors.direction([3.0, -4.0])
    assert one.numbers.tolist() == pytest.approx([0.6, -0.8])
    assert vectors.from_bytes(one.bytes()) == one
    for numbers in ([], [0.0], [math.nan], [math.inf, 1.0], [0.0] * 10_000):
        with pytest.raises(vectors.NoVector):
            vectors.direction(numbers)
    for data in (b"", b"abc", bytes(8), b"\xff" * 8, vectors.direction([1.0]).bytes() * 2):
        with pytest.raises(vectors.NoVector):
            vectors.from_bytes(data)
    assert vectors.nearest(one, [vectors.direction([1.0, 0.0, 0.0])]) == []


@pytest.mark.django_db
def test_an_alias_whose_embeddings_nobody_makes_is_named_by_the_check() -> None:
    house.alias("fast", cache="on", cache_semantic="embed")
    house.alias("off", cache_semantic="embed")
    [warning] = check_semantic_aliases(["default"])
    assert warning.id == "gateway.W002"
    assert "The alias fast" in warning.msg
    house.alias("embed")
    assert check_semantic_aliases(["default"]) == []


async def test_the_place_of_an_address_is_that_of_its_errand_too(door: Door, scripted: ScriptedUpstream) -> None:
    narrow = (await sync_to_async(client_key)("narrow", address_concurrency=1))[1]
    async with door.http() as http:
        await ask(http, PARIS, headers={"authorization": f"Bearer {narrow}"})
    assert asked_of(scripted) == ["embedder", "gpt-4o"]
