"""A process that is killed, or told to end, in the middle of streams (R26, R27): no request goes without its row."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.leaving import ASK, STREAM, Leaver, request
from tests.gateway.processes import Gateway, Site
from tests.scripted import HANG, ScriptedUpstream, Step, sse

STREAMS = 50
BEGINNING = [*sse(*golden.chunks("a", "b")[:3], done=False)[:-1], HANG]


@pytest.fixture
async def site(tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Site]:
    async with Site(tmp_path, scripted.port) as opened:
        yield opened


class Reading:
    """A stream that is read as it comes: `begun` after its first line, `text` is all of it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.begun = asyncio.Event()
        self.text = ""
        self.task = asyncio.ensure_future(self.read(http))

    async def read(self, http: httpx.AsyncClient) -> None:
        with contextlib.suppress(httpx.TransportError):
            async with http.stream("POST", "/chat/completions", json=STREAM) as answer:
                async for part in answer.aiter_text():
                    self.text += part
                    self.begun.set()


async def begin(http: httpx.AsyncClient) -> list[Reading]:
    streams = [Reading(http) for _ in range(STREAMS)]
    async with asyncio.timeout(20):
        await asyncio.gather(*(stream.begun.wait() for stream in streams))
    return streams


def many(gateway: Gateway) -> httpx.AsyncClient:
    return gateway.http(timeout=60, limits=httpx.Limits(max_connections=STREAMS + 10))


async def test_r27_streams_of_a_killed_process_become_lost_rows_each_once(
    site: Site, scripted: ScriptedUpstream
) -> None:
    scripted.default = BEGINNING
    async with Gateway(site, "one") as gateway, many(gateway) as http:
        streams = await begin(http)
        gateway.signal(signal.SIGKILL)
        await gateway.ended(5)
        await asyncio.gather(*(stream.task for stream in streams))
    assert await site.rows(1, within=0) == []
    for _ in range(2):
        async with Gateway(site, "one") as gateway:
            rows = await site.rows(STREAMS)
            await asyncio.sleep(0.5)
            assert rows == await site.rows(STREAMS, within=0)
    assert len({row["id"] for row in rows}) == len(rows) == STREAMS
    assert {(row["outcome"], row["flagged"], row["sent"]) for row in rows} == {("lost", True, True)}


async def test_r26_at_sigterm_streams_that_can_end_do_so_and_new_work_is_refused(
    site: Site, scripted: ScriptedUpstream
) -> None:
    frames = golden.chunks(*["word"] * 40)
    scripted.default = sse(*frames, gap=0.05)
    async with Gateway(site, "one") as gateway, many(gateway) as http:
        streams = await begin(http)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        while await gateway.status("/readyz") != 503:
            assert time.monotonic() - began < 1.0
        async with gateway.http() as late:
            refused = await late.post("/chat/completions", json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        await asyncio.gather(*(stream.task for stream in streams))
        assert await gateway.ended(5) == 0
    assert [stream.text.count("data: [DONE]") for stream in streams] == [1] * STREAMS
    rows = await site.rows(STREAMS)
    assert [row["outcome"] for row in rows] == ["ok"] * STREAMS
    assert len(scripted.requests) == STREAMS


async def test_r26_streams_that_cannot_end_get_an_error_event_and_a_row(site: Site, scripted: ScriptedUpstream) -> None:
    half: list[Step] = [HANG]
    async with Gateway(site, "one", drain=(1.0, 3.0)) as gateway, many(gateway) as http:
        scripted.default = BEGINNING
        streams = await begin(http)
        scripted.default = half
        waiting = asyncio.ensure_future(http.post("/chat/completions", json=ASK))
        while len(scripted.requests) <= STREAMS:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        gateway.signal(signal.SIGTERM)
        await asyncio.gather(*(stream.task for stream in streams))
        assert 0.9 < time.monotonic() - began < 3
        assert (await waiting).status_code == 502
        assert await gateway.ended(6) == 0
    for stream in streams:
        assert '"code":"stream_interrupted"' in stream.text.split("\n\n")[-2]
        assert "[DONE]" not in stream.text
    rows = await site.rows(STREAMS + 1)
    assert len(rows) == STREAMS + 1
    assert {row["error_code"] for row in rows} == {"stream_interrupted"}
    assert {row["outcome"] for row in rows} == {"truncated"}
    assert sorted(row["status"] for row in rows) == [200] * STREAMS + [502]


async def test_r01_a_client_that_leaves_the_real_server_ends_its_upstream_call(
    site: Site, scripted: ScriptedUpstream
) -> None:
    """On the loop and in the process that serve in production, which learn of an end in ways of their own."""
    scripted.default = BEGINNING
    async with Gateway(site, "one") as gateway:
        for way in ("fin", "rst"):
            clients = [await Leaver.come(gateway, request(gateway)) for _ in range(10)]
            await asyncio.gather(*(client.events(3) for client in clients))
            for client in clients:
                client.leave(way)
            await scripted.idle(1.0)
        rows = await site.rows(20)
    assert [(row["outcome"], row["sent"], row["status"]) for row in rows] == [("client_cancelled", True, 200)] * 20
