"""Full pools, slow readers, slow writers, endless bodies, full memory: R18, R19, R21, R22 and the cap on buffers."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from gateway import bodies, delivery
from gateway.errors import StreamInterrupted
from gateway.models import KeyedRequest
from gateway.process import Process
from gateway.upstream.client import Upstream
from gateway.upstream.transport import AiohttpTransport
from providers.addresses import AddressPolicy
from providers.keys import mint
from proxysite.protocol import GatewayProtocol
from tests.gateway import golden, house
from tests.gateway.house import Door, eventually
from tests.gateway.leaving import ASK, STREAM, Leaver, request
from tests.scripted import HANG, Chunk, ScriptedUpstream, event, json_answer, sse

pytestmark = pytest.mark.usefixtures("remembered")
MIB = 1024 * 1024


def process_of(door: Door) -> Process:
    assert door.engine.process is not None
    return door.engine.process


@asynccontextmanager
async def limited(tmp_path: Path, scripted: ScriptedUpstream, slots: int, pool: float) -> AsyncIterator[Door]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1", timeouts={"pool": pool})
        house.alias("fast", (lab, "gpt-4o"))
        return house.client_key()[1]

    upstream = Upstream(AddressPolicy([], development=True), limit=slots)
    async with house.open_house(configure, tmp_path, upstream=upstream) as opened:
        yield opened


# --- R18: no slot is free --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "slots", "pool"), [(100, 20, 0.5), pytest.param(500, 100, 2.0, marks=pytest.mark.slow)]
)
async def test_r18_calls_beyond_the_pool_wait_their_time_and_are_told_to_come_again(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, calls: int, slots: int, pool: float
) -> None:
    scripted.default = [HANG]
    async with limited(tmp_path, scripted, slots, pool) as door:
        began = time.monotonic()
        clients = await asyncio.gather(*(Leaver.come(door, request(door, ASK)) for _ in range(calls)))
        heads = [asyncio.ensure_future(client.head()) for client in clients]
        while sum(head.done() for head in heads) < calls - slots:
            assert time.monotonic() - began < pool + 1.5
            await asyncio.sleep(0.01)
        assert time.monotonic() - began >= pool
        refused = [head.result() for head in heads if head.done()]
        assert len(refused) == calls - slots
        for head in refused:
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nretry-after: 1\r\n" in head
        assert len(scripted.requests) == slots
        for client in clients:
            client.leave("rst")
        await asyncio.gather(*heads, return_exceptions=True)
        assert await eventually(lambda: process_of(door).upstream.slots.free == slots, within=1)
        rows = await door.rows(calls)
        assert sorted(row.outcome for row in rows) == ["client_cancelled"] * slots + ["error"] * (calls - slots)
        assert {(row.error_code, row.sent, row.tokens_in) for row in rows if row.outcome == "error"} == {
            ("upstream_pool_exhausted", False, 0)
        }


# --- R19: clients that read slowly, or not at all --------------------------------------------------------------------


def taken(door: Door) -> int:
    """Bytes that the gateway has read from its open connections to providers."""
    transport = process_of(door).upstream._transport
    assert isinstance(transport, AiohttpTransport)
    return sum(wire.received for connector in transport.connectors.values() for wire in connector._acquired)  # type: ignore[attr-defined]


def large_stream(size: int) -> list[Any]:
    frame = event(golden.chunk({"content": "x" * 1000}))
    return [*sse(event(golden.chunks("a")[0]), done=False)[:-1], *[Chunk(frame)] * (size // len(frame)), HANG]


async def sip(client: Leaver, until: float) -> int:
    """Read 1 KiB each 50 ms until that time; how much it was."""
    got = 0
    while time.monotonic() < until:
        got += len(await client.reader.read(1024))
        await asyncio.sleep(0.05)
    return got


@pytest.mark.parametrize(("count", "size"), [(10, 8 * MIB), pytest.param(100, 50 * MIB, marks=pytest.mark.slow)])
async def test_r19_the_gateway_reads_at_most_a_mebibyte_ahead_of_a_slow_client(
    door: Door, scripted: ScriptedUpstream, count: int, size: int
) -> None:
    scripted.default = large_stream(size)
    clients = await asyncio.gather(*(Leaver.come(door, request(door), window=4096) for _ in range(count)))
    until = time.monotonic() + (1.5 if count == 10 else 10)
    read = sum(await asyncio.gather(*(sip(client, until) for client in clients)))
    assert read > count * 4096
    assert taken(door) - read < count * MIB
    for client in clients:
        client.leave("rst")
    assert await eventually(lambda: not process_of(door).receipts)
    assert [row.outcome for row in await door.rows(count)] == ["client_cancelled"] * count


async def stalled(door: Door, scripted: ScriptedUpstream, *headers: str) -> Leaver:
    """A client that does not read, and the gateway at the end of what it may hold for it."""
    scripted.default = large_stream(8 * MIB)
    client = await Leaver.come(door, request(door, STREAM, *headers), window=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    before = -1
    while taken(door) != before or before < 100_000:
        before = taken(door)
        await asyncio.sleep(0.2)
    return client


async def test_r19_a_client_that_does_not_read_is_cut_off_after_the_write_stall(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert delivery.WRITE_STALL == 30.0
    monkeypatch.setattr(delivery, "WRITE_STALL", 1.5)
    tasks = len(asyncio.all_tasks())
    began = time.monotonic()
    client = await stalled(door, scripted)
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source, row.status) == ("client_stalled", "estimated", 200)
    assert 1.5 <= row.duration_ms / 1000 <= 3.0
    assert time.monotonic() - began < 5
    await scripted.idle(1.0)
    # The connection is dropped, not closed politely: that would wait for ever to write what nobody reads.
    assert await eventually(lambda: not door.server.serving.connections, within=1)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.reader.readexactly(16 * MIB)
    client.leave("rst")
    assert await eventually(lambda: len(asyncio.all_tasks()) <= tasks, within=1)


async def test_r19_one_that_may_ask_again_is_cut_off_too(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(delivery, "WRITE_STALL", 1.0)
    length = f"Content-Length: {len(json.dumps(STREAM))}"
    client = await stalled(door, scripted, length, "Idempotency-Key: stalled")
    [row] = await door.rows(1)
    assert row.outcome == "client_stalled"
    assert await eventually(lambda: not door.server.serving.connections, within=1)
    assert "ASGI" not in caplog.text
    assert not await sync_to_async(KeyedRequest.objects.exists)()
    client.leave("rst")


@pytest.mark.parametrize("way", ["stays", "shuts down"])
async def test_r19_an_answer_in_one_piece_that_nobody_reads_is_on_the_account_and_dropped(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    assert GatewayProtocol.stall_seconds > delivery.WRITE_STALL
    monkeypatch.setattr(GatewayProtocol, "stall_seconds", 60.0 if way == "shuts down" else 1.0)
    message = {"role": "assistant", "content": "x" * 8 * MIB}
    scripted.default = json_answer({**golden.COMPLETION, "choices": [{"index": 0, "message": message}]})
    client = await Leaver.come(door, request(door, ASK), window=4096)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    process = process_of(door)
    assert await eventually(lambda: process.memory.held > 8 * MIB)
    await asyncio.sleep(0.3)
    assert process.memory.held > 8 * MIB
    if way == "shuts down":
        await door.engine.end_streams()
    assert await eventually(lambda: not door.server.serving.connections, within=4)
    assert await eventually(lambda: not process.memory.held)
    [row] = await door.rows(1)
    assert (row.usage_source, row.status) == ("provider", 200)
    assert "ASGI" not in caplog.text
    client.leave("rst")


async def test_r19_an_answer_in_one_piece_may_be_read_slowly(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GatewayProtocol, "stall_seconds", 0.3)
    message = {"role": "assistant", "content": "x" * MIB}
    scripted.default = json_answer({**golden.COMPLETION, "choices": [{"index": 0, "message": message}]})
    client = await Leaver.come(door, request(door, ASK), window=65_536)
    until, got = time.monotonic() + 1.5, 0
    while time.monotonic() < until:
        got += len(await client.reader.read(16_384))
        await asyncio.sleep(0.05)
    assert got < MIB
    got += len(await client.reader.readexactly(MIB - got))
    assert await eventually(lambda: not process_of(door).receipts)
    client.leave("rst")


async def test_a_shutdown_does_not_wait_for_a_client_that_does_not_read(
    door: Door, scripted: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    client = await stalled(door, scripted)
    [receipt] = process_of(door).receipts
    receipt.interrupt(StreamInterrupted("The gateway is shutting down.", sent=True))
    [row] = await door.rows(1)
    assert (row.outcome, row.error_code) == ("truncated", "stream_interrupted")
    await scripted.idle(1.0)
    assert await eventually(lambda: not door.server.serving.connections, within=1)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.reader.readexactly(16 * MIB)
    assert "ASGI" not in caplog.text
    client.leave("rst")


# --- R21, R22: bodies without end ------------------------------------------------------------------------------------


async def test_r21_a_body_of_a_byte_at_a_time_is_a_408_and_the_connection_closes(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (bodies.GRACE, bodies.LEAST_SPEED, bodies.TOTAL) == (10.0, 10 * 1024, 300.0)
    monkeypatch.setattr(bodies, "GRACE", 0.3)
    monkeypatch.setattr(GatewayProtocol, "linger_seconds", 0.3)
    whole = request(door)
    start = whole.index(b"\r\n\r\n") + 4
    began = time.monotonic()
    client = await Leaver.come(door, whole[:start])
    answer = asyncio.ensure_future(client.reader.read())
    for position in range(start, len(whole) - 1):
        client.writer.write(whole[position : position + 1])
        await asyncio.sleep(0.05)
        if answer.done():
            break
    text = await answer
    assert text.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in text
    assert 0.5 < time.monotonic() - began < 1.5
    assert process_of(door).memory.held == 0
    assert await door.rows(1, within=0.3) == []
    client.writer.close()


@pytest.fixture
def read_before_answer(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read from a client whose answer had not begun yet."""
    sizes: list[int] = []
    real = GatewayProtocol.data_received

    def counting(self: GatewayProtocol, data: bytes) -> None:
        if self.cycle is None or not self.cycle.response_started:
            sizes.append(len(data))
        real(self, data)

    monkeypatch.setattr(GatewayProtocol, "data_received", counting)
    return sizes


async def pour(client: Leaver) -> bytes:
    """Chunks of 16 KiB without end, until the answer is there."""
    answer = asyncio.ensure_future(client.head())
    piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    while not answer.done():
        client.writer.write(piece)
        await client.writer.drain()
        await asyncio.sleep(0)
    return await answer


@pytest.mark.parametrize("key", ["junk", mint().token], ids=["junk", "unknown"])
async def test_r22_an_endless_body_with_a_bad_key_is_a_401_before_it_is_read(
    door: Door, read_before_answer: list[int], key: str
) -> None:
    client = await Leaver.come(door, request(door, b"", "Transfer-Encoding: chunked", key=key))
    head = await pour(client)
    assert head.startswith(b"HTTP/1.1 401 ")
    # What the server had read by then lay in its own buffer, which stops at 64 KiB and the read that filled it.
    assert sum(read_before_answer) <= 64 * 1024 + 256 * 1024
    assert process_of(door).memory.held == 0
    client.leave("rst")


async def test_r22_an_endless_body_with_a_good_key_is_a_413_at_ten_mebibytes(
    door: Door, read_before_answer: list[int]
) -> None:
    client = await Leaver.come(door, request(door, b"", "Transfer-Encoding: chunked"))
    head = await pour(client)
    assert head.startswith(b"HTTP/1.1 413 ")
    assert 10 * MIB < sum(read_before_answer) < 10 * MIB + 64 * 1024 + 512 * 1024
    assert await eventually(lambda: process_of(door).memory.held == 0)
    client.leave("rst")


# --- invariant 10: the process's memory ------------------------------------------------------------------------------


async def test_a_request_that_finds_the_buffers_full_is_a_503_and_all_is_given_back(
    door: Door, scripted: ScriptedUpstream
) -> None:
    memory = process_of(door).memory
    assert memory.cap == 256 * MIB
    memory.cap = 100_000
    scripted.default = [HANG]
    large = request(door, {**STREAM, "padding": "x" * 60_000})
    first = await Leaver.come(door, large)
    assert await eventually(lambda: len(scripted.requests) == 1)
    assert memory.held == len(large.partition(b"\r\n\r\n")[2])
    second = await Leaver.come(door, large)
    head = await second.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"buffers_full"' in await second.reader.readexactly(length_of(head))
    first.leave("fin")
    second.leave("fin")
    assert await eventually(lambda: memory.held == 0, within=1)
    scripted.default = json_answer(golden.COMPLETION)
    third = await Leaver.come(door, large)
    assert (await third.head()).startswith(b"HTTP/1.1 200 ")
    assert await eventually(lambda: memory.held == 0, within=1)
    third.leave("fin")


async def test_an_answer_that_finds_the_buffers_full_is_a_503_and_all_is_given_back(
    door: Door, scripted: ScriptedUpstream
) -> None:
    memory = process_of(door).memory
    memory.cap = 100_000
    scripted.default = json_answer({**golden.COMPLETION, "padding": "x" * 200_000})
    client = await Leaver.come(door, request(door, ASK))
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"buffers_full"' in await client.reader.readexactly(length_of(head))
    assert await eventually(lambda: memory.held == 0, within=1)
    assert process_of(door).upstream.slots.free == 2000
    await scripted.idle(1.0)
    client.leave("fin")
    [row] = await door.rows(1)  # the provider has done the work
    assert (row.sent, row.usage_source, row.tokens_in > 0) == (True, "estimated", True)


def length_of(head: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", head)
    assert found is not None
    return int(found[1])
