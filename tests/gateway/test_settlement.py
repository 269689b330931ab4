"""Whatever a crowd of clients does, each admitted request is settled once and nothing stays open (R02)."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async

from gateway.process import Process
from gateway.receipts import Receipt
from gateway.upstream.client import Upstream
from gateway.upstream.transport import AiohttpTransport
from ledger.entries import Entry, Settled
from ledger.journal import Journal
from providers.addresses import AddressPolicy
from tests.gateway import golden, house
from tests.gateway.house import Door, eventually
from tests.gateway.leaving import ASK, STREAM, Leaver, request
from tests.scripted import HANG, Chunk, Pause, Received, Script, ScriptedUpstream, event, head, json_answer, sse

pytestmark = pytest.mark.usefixtures("remembered")
SLOTS = 50
AT_ONCE = 100
CROWDS = pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])


class SlowToClose(httpx.AsyncByteStream):
    """A body whose closing takes a while, as that of another transport may."""

    def __init__(self, stream: httpx.AsyncByteStream, closed: list[int]) -> None:
        self.stream, self.closed = stream, closed

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.stream.__aiter__()

    async def aclose(self) -> None:
        await asyncio.sleep(0.001)
        await self.stream.aclose()
        self.closed.append(1)


class SlowTransport(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self.inner = AiohttpTransport(AddressPolicy([], development=True))
        self.opened = 0
        self.closed: list[int] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self.inner.handle_async_request(request)
        self.opened += 1
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        stream = SlowToClose(answer.stream, self.closed)
        return httpx.Response(answer.status_code, headers=answer.headers.raw, stream=stream)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Watched:
    """A journal that also counts."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.opened: list[str] = []
        self.settled: list[str] = []

    def append(self, entry: Entry) -> None:
        (self.settled if isinstance(entry, Settled) else self.opened).append(entry.id)
        self.journal.append(entry)


class Crowd:
    """A gateway with SLOTS slots, and the account of what must be left of it."""

    def __init__(self, door: Door, transport: SlowTransport, scripted: ScriptedUpstream) -> None:
        process, journal = door.engine.process, door.engine.journal
        assert process is not None
        assert isinstance(journal, Journal)
        self.door, self.transport, self.scripted, self.process = door, transport, scripted, process
        self.journal = process.journal = Watched(journal)
        self.before = self.tasks()

    def tasks(self) -> int:
        """Without those of the provider, which has one for each connection that is kept."""
        return len(asyncio.all_tasks() - self.scripted.tasks)

    async def is_settled(self, outcomes: set[str]) -> None:
        process, journal = self.process, self.journal
        assert await eventually(lambda: at_rest(process), within=1)
        assert not process.upstream.slots.waiters
        assert await eventually(lambda: len(self.transport.closed) == self.transport.opened, within=1)
        assert await eventually(lambda: self.tasks() <= self.before, within=1)
        assert len(set(journal.opened)) == len(journal.opened)
        assert sorted(journal.opened) == sorted(journal.settled)
        rows = await self.door.rows(len(journal.opened), within=10)
        assert sorted(row.id for row in rows) == sorted(journal.opened)
        assert {row.outcome for row in rows} <= outcomes


def at_rest(process: Process) -> bool:
    return not process.receipts and process.upstream.slots.free == SLOTS and process.memory.held == 0


@asynccontextmanager
async def opened(tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Crowd]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        return house.client_key()[1]

    transport = SlowTransport()
    upstream = Upstream(AddressPolicy([], development=True), transport=transport, limit=SLOTS)
    async with house.open_house(configure, tmp_path, upstream=upstream) as door:
        yield Crowd(door, transport, scripted)


@pytest.fixture
async def crowd(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Crowd]:
    async with opened(tmp_path, scripted) as made:
        yield made


def endless(chance: random.Random) -> Script:
    """Silent from the start, a plain answer that never ends, or a stream that goes on and then falls silent."""
    kind = chance.randrange(4)
    if kind == 0:
        return [HANG]
    if kind == 1:
        return [head(200, {"content-type": "application/json", "content-length": "9999"}) + b'{"id"', HANG]
    frames = golden.chunks(*["word"] * 20)[:20]
    steps: list[Any] = [Pause(chance.uniform(0, 0.05))]
    steps.append(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
    for frame in frames:
        steps += [Chunk(event(frame)), Pause(0.003)]
    return [*steps, HANG]


async def leave_early(crowd: Crowd, chance: random.Random) -> float:
    """One client that leaves somewhere on its way; when that was."""
    whole = request(crowd.door, chance.choice([ASK, STREAM]))
    cut = chance.choice([len(whole)] * 9 + [chance.randrange(1, len(whole))])
    client = await Leaver.come(crowd.door, whole[:cut])
    await asyncio.sleep(chance.uniform(0, 0.1))
    client.leave(chance.choice(["fin", "rst"]))
    return client.left_at


@CROWDS
async def test_r02_a_crowd_that_leaves_at_random_moments_costs_no_slot_no_task_and_no_row(
    crowd: Crowd, scripted: ScriptedUpstream, count: int
) -> None:
    chance = random.Random(count)
    scripted.default = lambda _: endless(chance)
    for _ in range(count // AT_ONCE):
        last = max(await asyncio.gather(*(leave_early(crowd, chance) for _ in range(AT_ONCE))))
        await scripted.idle(1.0)
        assert all((connection.left_at or 0.0) - last <= 1.0 for connection in scripted.connections)
    await crowd.is_settled({"client_cancelled"})
    # Both kinds were there: those that were admitted, and those that had not asked yet.
    assert count * 0.1 < len(crowd.journal.opened) < count
    await all_are_served(crowd, scripted)


async def all_are_served(crowd: Crowd, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    began = time.monotonic()
    async with crowd.door.http(timeout=10) as http:
        answers = await asyncio.gather(*(http.post("/chat/completions", json=ASK) for _ in range(100)))
    assert [answer.status_code for answer in answers] == [200] * 100
    assert time.monotonic() - began < 2


@CROWDS
async def test_streams_that_are_read_to_their_end_are_settled_once_each(
    crowd: Crowd, scripted: ScriptedUpstream, count: int
) -> None:
    scripted.default = sse(*golden.chunks("a", "b"))
    bodies: list[bytes] = []

    async def read(http: httpx.AsyncClient, times: int) -> None:
        for _ in range(times):
            answer = await http.post("/chat/completions", json=STREAM)
            bodies.append(answer.content)

    async with crowd.door.http(timeout=20) as http:
        await asyncio.gather(*(read(http, count // 50) for _ in range(50)))
    assert len(bodies) == count
    assert set(bodies) == {bodies[0]}
    assert bodies[0].endswith(b"data: [DONE]\n\n")
    await crowd.is_settled({"ok"})
    assert len(crowd.journal.opened) == count
    # Every connection went back to be used again, none was lost.
    assert len(scripted.connections) <= SLOTS


async def test_a_crowd_in_which_some_leave_and_some_stay_is_settled_too(
    crowd: Crowd, scripted: ScriptedUpstream
) -> None:
    chance = random.Random(7)

    def script(_: Received) -> Script:
        return sse(*golden.chunks(*["a"] * 10), gap=chance.uniform(0.001, 0.01))

    scripted.default = script

    async def stay(http: httpx.AsyncClient) -> None:
        answer = await http.post("/chat/completions", json=STREAM)
        assert answer.content.endswith(b"data: [DONE]\n\n")

    async with crowd.door.http(timeout=20) as http:
        staying = [stay(http) for _ in range(50)]
        await asyncio.gather(*staying, *(leave_early(crowd, chance) for _ in range(50)))
    await crowd.is_settled({"ok", "client_cancelled"})


async def test_a_receipt_that_is_settled_again_leaves_no_second_line(crowd: Crowd, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("a"), gap=0.1)
    async with crowd.door.http(timeout=20) as http:
        answer = asyncio.ensure_future(http.post("/chat/completions", json=STREAM))
        assert await eventually(lambda: len(crowd.process.receipts) == 1)
        [receipt] = crowd.process.receipts
        assert isinstance(receipt, Receipt)
        receipt.settle("error")
        await answer
    await crowd.is_settled({"error"})
    assert len(crowd.journal.settled) == 1


async def test_what_cannot_be_given_back_keeps_no_row_from_being_written(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    token = (await sync_to_async(house.client_key)("limited", concurrency=5))[1]

    def fails(claim: object) -> None:
        raise KeyError(claim)

    monkeypatch.setattr(door.engine.limiter, "release", fails)
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=ASK, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert [row.outcome for row in await door.rows(1)] == ["ok"]
