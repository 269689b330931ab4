"""Embeddings are kept item by item: a batch asks its provider for what is new, and pays for that."""

import asyncio
import base64
import json
import struct
from decimal import Decimal
from typing import Any

import httpx
from asgiref.sync import sync_to_async

from gateway.caching.batches import shared_out
from ledger.models import PriceRow
from tests.gateway.caching.test_exact import refreshed
from tests.gateway.house import Door
from tests.scripted import Received, ScriptedUpstream, Step, json_answer

VECTORS = {"a": [0.25, -0.5], "bb": [1.0, 2.0], "ccc": [0.125, 0.75], "dddd": [3.0, 4.0]}


def provider(request: Received) -> list[Step]:
    """A token a letter; base64 where that is asked for."""
    asked = request.json()
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]

    def form(text: str) -> Any:
        if asked.get("encoding_format") != "base64":
            return VECTORS[text]
        return base64.b64encode(struct.pack("<2f", *VECTORS[text])).decode()

    data = [{"object": "embedding", "embedding": form(text), "index": n} for n, text in enumerate(texts)]
    tokens = sum(map(len, texts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data[::-1], "model": "text-embedding-3-small", "usage": usage})


async def embed(http: httpx.AsyncClient, what: str | list[str], **more: Any) -> httpx.Response:
    answer = await http.post("/embeddings", json={"model": "fast", "input": what, **more})
    assert answer.status_code == 200, answer.text
    return answer


def vectors(answer: httpx.Response) -> list[list[float]]:
    data = sorted(answer.json()["data"], key=lambda item: item["index"])
    assert [item["index"] for item in data] == list(range(len(data)))
    assert {item["object"] for item in data} == {"embedding"}
    return [item["embedding"] for item in data]


async def test_a_batch_pays_only_for_what_is_new(door: Door, scripted: ScriptedUpstream) -> None:
    await sync_to_async(PriceRow.objects.create)(model="gpt-4o", input=Decimal(1))
    await refreshed(door)
    scripted.default = provider
    async with door.http() as http:
        first = await embed(http, ["a", "bb"])
        second = await embed(http, ["bb", "ccc", "a", "ccc", "dddd"], user="someone")
        third = await embed(http, ["dddd", "a"])
        fourth = await embed(http, "ccc")
    assert [request.json()["input"] for request in scripted.requests] == [["a", "bb"], ["ccc", "dddd"]]
    assert vectors(first) == [VECTORS["a"], VECTORS["bb"]]
    assert vectors(second) == [VECTORS[text] for text in ("bb", "ccc", "a", "ccc", "dddd")]
    assert vectors(third) == [VECTORS["dddd"], VECTORS["a"]]
    assert vectors(fourth) == [VECTORS["ccc"]]
    answers = (first, second, third, fourth)
    assert [answer.json()["usage"]["prompt_tokens"] for answer in answers] == [3, 10, 5, 3]
    assert {answer.json()["model"] for answer in answers} == {"text-embedding-3-small"}
    assert [answer.headers["x-gateway-cache"] for answer in answers] == ["miss", "miss", "hit", "hit"]
    assert [answer.headers.get("x-gateway-cache-items") for answer in answers] == [None, "2/5", None, None]
    rows = await door.rows(4)
    million = Decimal(1_000_000)
    assert [(row.provider, row.tokens_in, row.cost, row.saved) for row in rows] == [
        ("lab", 3, 3 / million, None),
        ("lab", 7, 7 / million, 3 / million),
        ("cache", 5, Decimal(0), 5 / million),
        ("cache", 3, Decimal(0), 3 / million),
    ]


async def test_numbers_and_base64_are_two_views_of_the_same(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = provider
    async with door.http() as http:
        numbers = await embed(http, ["a"])
        text = await embed(http, ["a"], encoding_format="base64")
        await embed(http, ["bb"], encoding_format="base64")
        back = await embed(http, ["bb"], encoding_format="float")
        mixed = [await embed(http, ["a", "bb", "ccc"], encoding_format=form) for form in ("base64", "float")]
    assert vectors(numbers) == [VECTORS["a"]]
    assert [base64.b64decode(str(item)) for item in vectors(text)] == [struct.pack("<2f", *VECTORS["a"])]
    assert vectors(back) == [VECTORS["bb"]]
    expected = [struct.pack("<2f", *VECTORS[name]) for name in ("a", "bb", "ccc")]
    assert [base64.b64decode(str(item)) for item in vectors(mixed[0])] == expected
    assert vectors(mixed[1]) == [VECTORS[name] for name in ("a", "bb", "ccc")]
    assert [request.json()["input"] for request in scripted.requests] == [["a"], ["bb"], ["ccc"]]


async def test_another_dimension_is_another_embedding_and_token_ids_are_one_item(
    door: Door, scripted: ScriptedUpstream
) -> None:
    one = {"object": "list", "data": [{"object": "embedding", "embedding": [1.0], "index": 0}], "model": "m"}
    scripted.default = json_answer({**one, "usage": {"prompt_tokens": 3, "total_tokens": 3}})
    async with door.http() as http:
        bodies: list[dict[str, Any]] = [
            {"input": [1, 2, 3]},
            {"input": [[1, 2, 3]]},
            {"input": [1, 2, 3], "dimensions": 1},
        ]
        answers = [await http.post("/embeddings", json={"model": "fast", **body}) for body in bodies]
    assert [answer.headers["x-gateway-cache"] for answer in answers] == ["miss", "hit", "miss"]


async def test_equal_batches_at_once_make_one_upstream_call(door: Door, scripted: ScriptedUpstream) -> None:
    from tests.scripted import Pause

    scripted.default = lambda request: [Pause(0.3), *provider(request)]
    async with door.http() as http:
        answers = await asyncio.gather(*(embed(http, ["a", "bb"]) for _ in range(20)))
    assert len(scripted.requests) == 1
    assert {json.dumps(vectors(answer)) for answer in answers} == {json.dumps([VECTORS["a"], VECTORS["bb"]])}


async def test_another_number_of_embeddings_than_was_asked_for_is_no_answer(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = provider
    async with door.http() as http:
        await embed(http, ["a"])
        scripted.default = json_answer({"object": "list", "data": [], "model": "m"})
        answer = await http.post("/embeddings", json={"model": "fast", "input": ["a", "bb"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")
        scripted.default = provider
        assert vectors(await embed(http, ["a", "bb"])) == [VECTORS["a"], VECTORS["bb"]]


def test_shares_add_up_to_the_whole() -> None:
    assert shared_out(10, [1, 1, 1]) == [3, 3, 4]
    assert shared_out(0, [5, 5]) == [0, 0]
    assert sum(shared_out(12345, [7, 1, 900, 33, 2] * 50)) == 12345
