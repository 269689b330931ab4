"""Streams that are read to their end after the client has left, for providers that bill the whole answer anyway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import delivery
from tests.gateway import golden, house
from tests.scripted import HANG, ScriptedUpstream, sse

BODY = b'{"model":"fast","stream":true,"messages":[]}'


@pytest.fixture
async def draining(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    """As `door`, with a provider whose streams are drained."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1", options={"drain": True}, timeouts={"gap": 2.0})
        house.alias("fast", (lab, "gpt-4o"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def leave_after_the_first_event(door: house.Door) -> None:
    port = int(door.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {door.key}\r\n"
    writer.write(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY))
    await reader.readuntil(b"data: ")
    writer.transport.abort()


async def test_r04_a_drained_stream_has_the_providers_own_usage(
    draining: house.Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = sse(*golden.chunks("a", "b", "c"), gap=0.1)
    await leave_after_the_first_event(draining)
    [row] = await draining.rows(1)
    assert (row.outcome, row.usage_source, row.tokens_in, row.tokens_out) == ("client_cancelled", "provider", 19, 3)
    process = await draining.engine.running()
    assert (process.drains, process.receipts) == (0, set())


async def test_r04_no_more_streams_are_drained_than_the_cap(
    draining: house.Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DRAINS", 4)
    scripted.default = sse(*golden.chunks("a", "b", "c"), gap=0.3)
    leaving = [asyncio.create_task(leave_after_the_first_event(draining)) for _ in range(12)]
    process = await draining.engine.running()
    most = 0
    while not all(task.done() for task in leaving) or process.receipts:
        most = max(most, process.drains)
        await asyncio.sleep(0.005)
    await asyncio.gather(*leaving)
    rows = await draining.rows(12)
    assert most == 4
    assert sorted(row.usage_source for row in rows) == ["estimated"] * 8 + ["provider"] * 4
    assert {row.outcome for row in rows} == {"client_cancelled"}
    assert process.drains == 0


async def test_r04_a_drain_has_an_end(
    draining: house.Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "DRAIN_SECONDS", 0.3)
    scripted.default = [*sse(golden.chunks("a")[0], done=False)[:-1], HANG]
    await leave_after_the_first_event(draining)
    [row] = await draining.rows(1, within=1.5)
    assert (row.outcome, row.usage_source) == ("client_cancelled", "estimated")
    await scripted.idle()
