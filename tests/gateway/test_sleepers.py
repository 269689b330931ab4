"""Providers that sleep: they are waited for, and nobody is kept waiting in silence."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import delivery
from gateway.forwarding import sleepers
from gateway.replies.relays import Reply
from providers.targets import ProviderCard, Target
from tests.gateway import golden, house
from tests.gateway.house import Door, eventually
from tests.gateway.leaving import Leaver, request
from tests.scripted import HANG, Pause, ScriptedUpstream, json_answer, sse

ASK: dict[str, Any] = {"model": "drowsy", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = {**ASK, "stream": True}
PING = b": ping\n\n"
# https://huggingface.co/docs/inference-endpoints/autoscaling, and what llama.cpp's server says while it loads
ASLEEP = json_answer({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, status=503)
GOOD = json_answer(golden.COMPLETION)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of 50 ms and patience of half a second, instead of seconds."""
    assert sleepers.PATIENCE < 15
    monkeypatch.setattr(sleepers, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(sleepers, "PATIENCE", 0.5)
    monkeypatch.setattr(delivery, "PING_AFTER", 0.5)


@pytest.fixture
async def drowsy(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Alias `drowsy` leads to a provider that may sleep for 2 s, `either` to that one and then another."""

    def configure() -> str:
        quirks = {"asleep": {"503": "loading"}}
        lab = house.provider("lab", scripted.url + "/v1", quirks=quirks, timeouts={"first_byte": 2})
        other = house.provider("other", scripted.url + "/other/v1")
        house.alias("drowsy", (lab, "m"))
        house.alias("either", (lab, "m"), (other, "m"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_a_provider_that_sleeps_is_asked_until_it_is_awake(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(ASLEEP, ASLEEP, GOOD)
    async with drowsy.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert answer.json() == golden.COMPLETION
    assert len(scripted.requests) == 3
    assert len({sent.body for sent in scripted.requests}) == 1
    [row] = await drowsy.rows(1)
    assert row.outcome == "ok"
    assert [attempt["outcome"] for attempt in row.attempts] == ["ok"]


async def test_a_plain_client_is_told_to_come_again_at_the_limit(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = ASLEEP
    began = time.monotonic()
    async with drowsy.http(timeout=20) as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert time.monotonic() - began >= 1.0
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "30")
    assert answer.json()["error"] == {
        "message": "The provider's model is still being started. Ask again in a while.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "upstream_asleep",
    }
    assert len(scripted.requests) >= 4
    [row] = await drowsy.rows(1)
    assert (row.error_code, row.cost) == ("upstream_asleep", 0)


async def test_another_503_is_no_sleep(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"error": {"message": "server busy"}}, status=503)
    async with drowsy.http() as http:
        answer = await http.post("/chat/completions", json=ASK)
    assert (answer.status_code, len(scripted.requests)) == (503, 1)


async def test_another_route_is_faster_than_waiting(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(ASLEEP, GOOD)
    async with drowsy.http() as http:
        answer = await http.post("/chat/completions", json={**ASK, "model": "either"})
    assert answer.status_code == 200
    assert [sent.target for sent in scripted.requests] == ["/v1/chat/completions", "/other/v1/chat/completions"]


async def test_a_streaming_client_is_kept_alive_by_comments(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(*[ASLEEP] * 5, sse(*golden.chunks("a")))
    began = time.monotonic()
    async with drowsy.http(timeout=20) as http, http.stream("POST", "/chat/completions", json=STREAM) as answer:
        head_after = time.monotonic() - began
        body = await answer.aread()
    assert answer.status_code == 200
    assert 0.4 <= head_after < 1.4
    assert body.startswith(PING)
    assert body.count(PING) >= 2
    assert body.endswith(b"data: [DONE]\n\n")
    [row] = await drowsy.rows(1)
    assert (row.outcome, row.tokens_out, row.usage_source) == ("ok", 3, "provider")


async def test_a_model_that_loads_without_a_word_is_waited_for_with_comments(
    drowsy: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [Pause(1.2), *sse(*golden.chunks("a"))]
    async with drowsy.http(timeout=20) as http:
        answer = await http.post("/chat/completions", json=STREAM)
    assert answer.content.startswith(PING)
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_one_that_is_awake_answers_a_stream_without_a_comment(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("a"))
    async with drowsy.http() as http:
        answer = await http.post("/chat/completions", json=STREAM)
    assert PING not in answer.content
    scripted.default = json_answer({"error": {"message": "no such model"}}, status=404)
    async with drowsy.http() as http:
        refused = await http.post("/chat/completions", json=STREAM)
    assert refused.status_code == 404


async def test_a_stream_that_waited_in_vain_ends_with_an_error_event(drowsy: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = ASLEEP
    async with drowsy.http(timeout=20) as http:
        answer = await http.post("/chat/completions", json=STREAM)
    assert answer.status_code == 200
    assert b'"code":"upstream_asleep"' in answer.content
    assert b"[DONE]" not in answer.content


async def test_a_stream_whose_provider_never_answers_ends_with_a_timeout(
    drowsy: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [HANG]
    async with drowsy.http(timeout=20) as http:
        answer = await http.post("/chat/completions", json=STREAM)
    assert b'"code":"upstream_timeout"' in answer.content
    await scripted.idle(within=3)


@pytest.mark.parametrize("after", [0.2, 0.9], ids=["before the head", "after the head"])
async def test_a_client_that_leaves_while_it_waits_ends_the_upstream_call(
    drowsy: Door, scripted: ScriptedUpstream, after: float
) -> None:
    scripted.default = [HANG]
    leaver = await Leaver.come(drowsy, request(drowsy, STREAM))
    assert await eventually(lambda: len(scripted.requests) == 1)
    await asyncio.sleep(after)
    leaver.leave("fin")
    await scripted.idle(within=2)
    [row] = await drowsy.rows(1)
    assert row.outcome == "client_cancelled"
    assert not [task for task in asyncio.all_tasks() if "forward" in str(task.get_coro())]


async def test_a_reply_that_comes_as_its_client_leaves_is_closed() -> None:
    closed: list[str] = []
    come = asyncio.Event()

    class Source:
        def pipe(self, sink: object) -> None:
            raise AssertionError

        async def aclose(self) -> None:
            closed.append("upstream")

    async def reply() -> Reply:
        await come.wait()
        return Reply(Target(ProviderCard("1", "lab", "lab"), "m"), 200, "text/event-stream", upstream=Source())

    waking = sleepers.Waking(reply())
    asking = asyncio.ensure_future(waking.soon())
    await asyncio.sleep(0)
    come.set()
    while not waking.task.done():
        await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await eventually(lambda: closed == ["upstream"])
