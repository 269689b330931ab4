"""Comments that keep a silent stream alive (case 13): when they come, where they stand, and what they never break."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from asgiref.sync import sync_to_async

from gateway import delivery
from providers.models import ModelAlias
from tests.gateway import golden
from tests.gateway.house import Door, eventually
from tests.gateway.leaving import ASK, STREAM, Leaver, request
from tests.scripted import HANG, RESET, Chunk, Pause, ScriptedUpstream, Step, event, head, json_answer, sse

PING = b": ping\n\n"
STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comment after 0.5 s instead of 12."""
    assert delivery.PING_AFTER + 0.25 < 15
    monkeypatch.setattr(delivery, "PING_AFTER", 0.5)


@pytest.fixture
async def early(door: Door) -> Door:
    """As `door`, with early_200 on its alias."""
    await sync_to_async(ModelAlias.objects.filter(name="fast").update)(early_200=True)
    await door.engine.sql(door.engine.reader.load)
    return door


async def timed(door: Door, body: dict[str, Any] = STREAM) -> AsyncIterator[tuple[float, bytes]]:
    """Each part of the answer's body, and the seconds since the request at which it came; first the head as b""."""
    began = time.monotonic()
    async with door.http(timeout=20) as http, http.stream("POST", "/chat/completions", json=body) as answer:
        assert answer.status_code == 200
        yield time.monotonic() - began, b""
        async for part in answer.aiter_raw():
            yield time.monotonic() - began, part


async def test_case_13_a_silent_stream_gets_a_comment_in_every_interval(
    door: Door, scripted: ScriptedUpstream, quick: None
) -> None:
    frames = [event(frame) for frame in golden.chunks("a")]
    scripted.default = [
        STREAM_HEAD,
        Chunk(frames[0]),
        Pause(2.6),
        *map(Chunk, frames[1:]),
        Chunk(b"data: [DONE]\n\n"),
        Chunk(),
    ]
    parts = [part async for part in timed(door)]
    pings = [at for at, data in parts if data == PING]
    assert 3 <= len(pings) <= 5
    # 0.5 s, the tick's 0.25 s, and the machine's share.
    moments = [at for at, data in parts if data]
    assert max(later - before for before, later in itertools.pairwise(moments)) < 1.0
    assert b"".join(data for _, data in parts if data != PING).count(b"data: ") == 4
    [row] = await door.rows(1)
    assert (row.outcome, row.bytes_out) == ("ok", sum(len(data) for _, data in parts))


async def test_no_comment_comes_before_the_first_upstream_byte(
    door: Door, scripted: ScriptedUpstream, quick: None
) -> None:
    scripted.default = [Pause(1.5), *sse(*golden.chunks("a"))]
    parts = [part async for part in timed(door)]
    assert parts[0][0] >= 1.5
    assert PING not in b"".join(data for _, data in parts)


async def test_with_early_200_the_head_and_comments_go_out_before_the_upstream_answers(
    early: Door, scripted: ScriptedUpstream, quick: None
) -> None:
    scripted.default = [Pause(1.6), *sse(*golden.chunks("a"))]
    parts = [part async for part in timed(early)]
    assert parts[0][0] < 0.5
    assert parts[1][1] == PING
    assert parts[1][0] < 0.5
    before = [data for at, data in parts if 0.4 < at < 1.5]
    assert before.count(PING) == len(before)
    assert 1 <= len(before) <= 3
    assert b"".join(data for _, data in parts).endswith(b"data: [DONE]\n\n")
    [row] = await early.rows(1)
    assert (row.outcome, row.usage_source, row.tokens_out) == ("ok", "provider", 3)


REFUSED: dict[str, Any] = {"error": {"message": "no", "code": "rate_limit_exceeded"}}


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (json_answer(REFUSED, status=429), "rate_limit_exceeded"),
        ([head(200, {"content-length": "2"}) + b"no"], "upstream_invalid_response"),
        ([RESET], "upstream_broken"),
    ],
)
async def test_with_early_200_an_upstream_error_is_an_event(
    early: Door, scripted: ScriptedUpstream, script: list[Step], code: str
) -> None:
    scripted.default = script
    async with early.http() as http:
        answer = await http.post("/chat/completions", json=STREAM)
    assert answer.status_code == 200
    ping, error, rest = answer.content.split(b"\n\n")
    assert (ping, rest) == (b": ping", b"")
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == code
    async with early.client(max_retries=0) as client:
        with pytest.raises(openai.APIError):
            async for _ in await client.chat.completions.create(**STREAM):
                pass
    assert [(row.outcome, row.error_code, row.status) for row in await early.rows(2)] == [
        ("upstream_error", code, 200)
    ] * 2


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_who_is_told_to_stop_in_a_pause_between_two_attempts_tells_the_client(
    early: Door, scripted: ScriptedUpstream, caplog: pytest.LogCaptureFixture, body: dict[str, Any]
) -> None:
    scripted.default = json_answer({"error": {"message": "busy"}}, status=503, headers={"retry-after": "9"})
    async with early.http() as http:
        asking = asyncio.create_task(http.post("/chat/completions", json=body))
        assert await eventually(lambda: bool(scripted.requests))
        await asyncio.sleep(0.2)
        await early.engine.end_streams()
        answer = await asyncio.wait_for(asking, 3)
    told = answer.content.split(b"\n\n")[1].removeprefix(b"data: ") if "stream" in body else answer.content
    assert json.loads(told)["error"]["code"] == "stream_interrupted"
    [row] = await early.rows(1)
    assert (row.outcome, row.error_code, row.status) == ("truncated", "stream_interrupted", answer.status_code)
    assert "ASGI" not in caplog.text


async def test_with_early_200_a_plain_call_keeps_its_status(early: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"error": {"message": "no"}}, status=429)
    async with early.http() as http:
        assert (await http.post("/chat/completions", json=ASK)).status_code == 429


@pytest.mark.parametrize("way", ["fin", "rst"])
async def test_with_early_200_a_client_that_leaves_while_it_waits_ends_the_upstream_call(
    early: Door, scripted: ScriptedUpstream, quick: None, way: Any
) -> None:
    process = early.engine.process
    assert process is not None
    tasks = len(asyncio.all_tasks())
    scripted.default = [HANG]
    client = await Leaver.come(early, request(early))
    await client.head()
    await client.events(2)
    client.leave(way)
    await scripted.idle(1.0)
    assert await eventually(lambda: not process.receipts and len(asyncio.all_tasks()) <= tasks, within=1)
    [row] = await early.rows(1)
    assert (row.outcome, row.sent, row.usage_source, row.tokens_in > 0) == ("client_cancelled", True, "estimated", True)


async def test_an_upstream_that_sends_only_comments_is_no_excuse(
    door: Door, scripted: ScriptedUpstream, quick: None
) -> None:
    theirs: list[Step] = [Pause(0.1), Chunk(b": OPENROUTER PROCESSING\n\n")] * 20
    rest = [*map(Chunk, map(event, golden.chunks("a"))), Chunk(b"data: [DONE]\n\n"), Chunk()]
    scripted.default = [STREAM_HEAD, *theirs, *rest]
    parts = [part async for part in timed(door)]
    body = b"".join(data for _, data in parts)
    assert 2 <= sum(data == PING for _, data in parts) <= 4
    assert b"OPENROUTER" not in body
    assert body.endswith(b"data: [DONE]\n\n")


async def test_comments_stand_only_between_events(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event comes in pieces with pauses that are longer than the patience; the client's own parser reads them."""
    monkeypatch.setattr(delivery, "PING_AFTER", 0.05)
    steps: list[Step] = [STREAM_HEAD]
    for frame in map(event, golden.chunks("a", "b")):
        third = len(frame) // 3
        for piece in (frame[:third], frame[third : 2 * third], frame[2 * third : -1], frame[-1:]):
            steps += [Chunk(piece), Pause(0.3)]
    scripted.default = [*steps, Chunk(b"data: [DONE]\n\n"), Chunk()]
    async with door.http(timeout=30) as http:
        body: bytes = (await http.post("/chat/completions", json=STREAM)).content
    assert body.count(PING) >= 6
    assert body.replace(PING, b"") == whole(body)
    for block in body.split(b"\n\n")[:-1]:
        assert block in (b": ping", b"data: [DONE]") or json.loads(block.removeprefix(b"data: "))["object"]


def whole(body: bytes) -> bytes:
    """The events alone, as a parser finds them."""
    return b"".join(block + b"\n\n" for block in body.split(b"\n\n") if block.startswith(b"data: "))


async def test_the_openai_client_reads_over_the_comments(door: Door, scripted: ScriptedUpstream, quick: None) -> None:
    scripted.default = sse(*golden.chunks("Hel", "lo"), gap=0.8)
    async with door.client() as client:
        stream = await client.chat.completions.create(**STREAM)
        text = "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])
    assert text == "Hello"
    [row] = await door.rows(1)
    assert row.bytes_out > len(text)


async def test_a_stream_that_speaks_gets_no_comment(door: Door, scripted: ScriptedUpstream, quick: None) -> None:
    scripted.default = sse(*golden.chunks(*["a"] * 20), gap=0.1)
    async with door.http(timeout=20) as http:
        answer: httpx.Response = await http.post("/chat/completions", json=STREAM)
    assert PING not in answer.content
