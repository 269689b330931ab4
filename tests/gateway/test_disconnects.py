"""A client that leaves (case 20, R01): its upstream call ends at once, and one row says so."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.upstream.client import Upstream
from providers.addresses import AddressPolicy
from tests.gateway import golden, house
from tests.gateway.house import Door, eventually
from tests.gateway.leaving import ASK, STREAM, Leaver, Way, request
from tests.scripted import HANG, Chunk, Pause, ScriptedUpstream, Step, event, head, json_answer, sse

pytestmark = pytest.mark.usefixtures("remembered")
WAYS = pytest.mark.parametrize("way", ["fin", "rst"])
SLOTS = 2000
PROMPT_TOKENS = 5 + 4 + 3  # of ASK: its 19 letters, the message's frame, the chat's


def slow_stream(count: int = 100, gap: float = 0.01) -> list[Step]:
    """The head with a comment, then one event each `gap` seconds, then silence."""
    frames = golden.chunks(*["word"] * count)
    steps: list[Step] = [head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})]
    steps.append(Chunk(b": welcome\n\n"))
    for frame in frames[:count]:
        steps += [Pause(gap), Chunk(event(frame))]
    return [*steps, HANG]


async def gone(door: Door, scripted: ScriptedUpstream, left_at: float) -> None:
    """Within 1 s of the leaving the upstream has seen its end, every slot is free and nothing is open."""
    process = door.engine.process
    assert process is not None
    assert await eventually(lambda: all(connection.left_at for connection in scripted.connections), within=2)
    moments = [connection.left_at or 0.0 for connection in scripted.connections]
    assert max(moments) - left_at <= 1.0
    assert await eventually(lambda: not process.receipts and process.upstream.slots.free == SLOTS, within=1)
    assert not process.upstream.slots.waiters
    assert await eventually(lambda: process.memory.held == 0, within=1)


@WAYS
@pytest.mark.parametrize("chunks", [0, 1, 50, 99])
async def test_case_20_and_r01_a_client_that_leaves_in_the_stream_ends_the_upstream_call_and_leaves_one_row(
    door: Door, scripted: ScriptedUpstream, chunks: int, way: Way
) -> None:
    tasks = len(asyncio.all_tasks())
    scripted.default = slow_stream()
    client = await Leaver.come(door, request(door))
    await client.head()
    await client.events(chunks)
    client.leave(way)
    await gone(door, scripted, client.left_at)
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks, within=1)
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source, row.status, row.sent) == ("client_cancelled", "estimated", 200, True)
    assert row.tokens_in == PROMPT_TOKENS
    # The first event says who speaks, and no word yet.
    assert chunks - 1 <= row.tokens_out <= chunks + 60
    assert row.bytes_out >= chunks * len(event(golden.chunk({"content": "word"}))) - 100
    assert len(scripted.requests) == 1


@WAYS
@pytest.mark.parametrize("body", [ASK, STREAM], ids=["plain", "stream"])
async def test_r01_a_client_that_leaves_before_the_head_is_charged_for_what_was_sent(
    door: Door, scripted: ScriptedUpstream, body: dict[str, Any], way: Way
) -> None:
    tasks = len(asyncio.all_tasks())
    scripted.default = [HANG]
    client = await Leaver.come(door, request(door, body))
    assert await eventually(lambda: len(scripted.requests) == 1)
    client.leave(way)
    await gone(door, scripted, client.left_at)
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks, within=1)
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source, row.status, row.sent) == ("client_cancelled", "estimated", 499, True)
    assert (row.tokens_in, row.tokens_out) == (PROMPT_TOKENS, 0)
    assert row.attempts[0]["outcome"] == "cancelled"


async def test_r01_a_plain_answer_under_way_is_broken_off(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [head(200, {"content-type": "application/json", "content-length": "1000"}) + b'{"id":', HANG]
    client = await Leaver.come(door, request(door, ASK))
    assert await eventually(lambda: len(scripted.requests) == 1)
    await asyncio.sleep(0.05)
    client.leave("fin")
    await gone(door, scripted, client.left_at)
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source, row.tokens_in > 0) == ("client_cancelled", "estimated", True)


@WAYS
async def test_r01_a_client_that_leaves_in_its_own_body_was_never_admitted(
    door: Door, scripted: ScriptedUpstream, way: Way
) -> None:
    tasks = len(asyncio.all_tasks())
    whole = request(door, {**ASK, "padding": "x" * 100_000})
    client = await Leaver.come(door, whole[:60_000])
    process = door.engine.process
    assert process is not None
    assert await eventually(lambda: process.memory.held > 50_000)
    client.leave(way)
    assert await eventually(lambda: process.memory.held == 0, within=1)
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks, within=1)
    assert scripted.requests == []
    assert await door.rows(1, within=0.5) == []


@WAYS
async def test_a_client_that_leaves_while_the_provider_is_being_connected_to_was_not_charged(
    door: Door, scripted: ScriptedUpstream, way: Way
) -> None:
    process = door.engine.process
    assert process is not None
    process.upstream.slots.free = 0
    client = await Leaver.come(door, request(door))
    assert await eventually(lambda: len(process.upstream.slots.waiters) == 1)
    client.leave(way)
    assert await eventually(lambda: not process.upstream.slots.waiters, within=1)
    [row] = await door.rows(1)
    assert (row.outcome, row.sent, row.tokens_in, row.usage_source) == ("client_cancelled", False, 0, "none")
    assert process.upstream.slots.free == 0


async def test_nothing_is_read_from_the_upstream_after_the_client_has_left(
    door: Door, scripted: ScriptedUpstream
) -> None:
    """The provider writes on without end: were it read on, it could."""
    flood: list[Step] = [head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})]
    flood += [Chunk(event(golden.chunk({"content": "x" * 1000}))), Pause(0.001)] * 20_000
    scripted.default = flood
    client = await Leaver.come(door, request(door))
    await client.events(20)
    client.leave("rst")
    await gone(door, scripted, client.left_at)
    [row] = await door.rows(1)
    before = row.bytes_out
    await asyncio.sleep(0.3)
    assert scripted.open_connections == 0
    assert before < 20_000 * 1000 / 10


async def test_a_client_that_leaves_after_the_end_has_a_good_row(door: Door, scripted: ScriptedUpstream) -> None:
    """A server's `receive()` also says that it is over when all went well."""
    scripted.default = sse(*golden.chunks("a", "b"))
    for way in ("fin", "rst"):
        client = await Leaver.come(door, request(door))
        await client.reader.readuntil(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        client.leave(way)
    rows = await door.rows(2)
    assert [(row.outcome, row.usage_source, row.tokens_out) for row in rows] == [("ok", "provider", 3)] * 2


async def test_a_second_request_on_the_connection_is_watched_as_the_first(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue(json_answer(golden.COMPLETION), slow_stream())
    client = await Leaver.come(door, request(door, ASK))
    await client.head()
    await client.reader.readuntil(b'"fp_44709d6fcb"}')
    client.writer.write(request(door))
    await client.head()
    await client.events(3)
    client.leave("fin")
    await gone(door, scripted, client.left_at)
    assert [row.outcome for row in await door.rows(2)] == ["ok", "client_cancelled"]


@pytest.fixture
async def narrow(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Two routes and one slot."""

    def configure() -> str:
        first = house.provider("first", scripted.url + "/v1")
        second = house.provider("second", scripted.url + "/v1")
        house.alias("fast", (first, "model-1"), (second, "model-2"))
        return house.client_key()[1]

    upstream = Upstream(AddressPolicy([], development=True), limit=1)
    async with house.open_house(configure, tmp_path, upstream=upstream) as opened:
        yield opened


async def test_r02_one_slot_survives_fifty_clients_that_leave(narrow: Door, scripted: ScriptedUpstream) -> None:
    process = narrow.engine.process
    assert process is not None
    scripted.default = [HANG]
    for number in range(50):
        client = await Leaver.come(narrow, request(narrow, ASK if number % 2 else STREAM))
        await asyncio.sleep(number % 5 * 0.003)
        client.leave("rst" if number % 3 else "fin")
    assert await eventually(lambda: not process.receipts and process.upstream.slots.free == 1)
    scripted.default = json_answer(golden.COMPLETION)
    began = time.monotonic()
    async with narrow.http() as http:
        assert [(await http.post("/chat/completions", json=ASK)).status_code for _ in range(5)] == [200] * 5
    assert time.monotonic() - began < 2
