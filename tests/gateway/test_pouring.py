"""A request's body that comes piece by piece: what the provider gets, and what becomes of one that ends badly."""

import asyncio
import gc
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import BodyTimeout, GatewayError, UpstreamBroken, UpstreamRefused
from gateway.pouring import WrongLength
from gateway.upstream.client import Upstream
from providers.targets import Timeouts
from tests.gateway.house import LIMIT, eventually
from tests.scripted import FIN, ScriptedUpstream, json_answer

KIB = 1024
MIB = 1024 * 1024
REFUSAL = b"HTTP/1.1 401 No\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{}"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Pieces:
    """A source that counts what has been taken of it; an exception among the pieces is raised."""

    given: list[bytes | Exception]
    length: int | None = None
    restarts: bool = False
    taken: int = 0
    endless: bool = False
    asked: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        self.asked += 1
        for piece in self.given:
            if isinstance(piece, Exception):
                raise piece
            self.taken += len(piece)
            yield piece
        if self.endless:
            await self.gate.wait()


@dataclass
class Sending:
    sent: bool = False


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    opened: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        await handler(reader, writer)

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/files"
    finally:
        listening.close()
        for writer in opened:
            writer.transport.abort()


async def send(upstream: Upstream, url: str, source: Pieces, **options: Any) -> bytes:
    reply = await upstream.send(url, [("content-type", "text/plain")], source, Timeouts(), **options)
    if reply.status >= 400:
        await reply.aclose()
        raise UpstreamRefused("no", status=reply.status)
    return await reply.read()


async def test_without_a_length_it_goes_out_chunked(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = json_answer({"ok": True})
    source = Pieces([b"one", b"", b"two" * 100_000, b"\r\n"])
    assert await send(upstream, provider.url, source) == b'{"ok":true}'
    [request] = provider.requests
    assert (request.header("transfer-encoding"), request.header("content-length")) == ("chunked", None)
    assert request.body == b"one" + b"two" * 100_000 + b"\r\n"
    # The whole of it went out: the connection serves again.
    assert await send(upstream, provider.url, Pieces([b"next"])) == b'{"ok":true}'
    assert [request.connection for request in provider.requests] == [0, 0]
    assert upstream.slots.free == LIMIT


async def test_with_a_length_it_goes_out_as_it_is(upstream: Upstream, provider: ScriptedUpstream) -> None:
    provider.default = json_answer({"ok": True})
    assert await send(upstream, provider.url, Pieces([b"one", b"two"], length=6)) == b'{"ok":true}'
    [request] = provider.requests
    assert (request.header("transfer-encoding"), request.header("content-length")) == (None, "6")
    assert request.body == b"onetwo"


@pytest.mark.parametrize("given", [[b"one", b"two!"], [b"one"]], ids=["more", "less"])
async def test_a_wrong_length_never_becomes_a_second_request(
    upstream: Upstream, provider: ScriptedUpstream, given: list[bytes | Exception]
) -> None:
    with pytest.raises(WrongLength):
        await send(upstream, provider.url, Pieces(given, length=6))
    await provider.idle()
    assert provider.requests == []
    assert upstream.slots.free == LIMIT


async def test_what_the_source_raises_ends_the_call_and_is_what_the_caller_gets(
    upstream: Upstream, provider: ScriptedUpstream
) -> None:
    sending = Sending()
    with pytest.raises(BodyTimeout):
        await send(upstream, provider.url, Pieces([b"one", BodyTimeout("late")]), sending=sending)
    assert sending.sent
    await provider.idle()
    assert provider.requests == []
    assert upstream.slots.free == LIMIT


async def test_an_answer_before_the_body_was_read_is_the_answer(upstream: Upstream) -> None:
    left = asyncio.Event()

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(REFUSAL)
        await reader.read()
        left.set()

    async with server(refusing) as url:
        source = Pieces([b"x" * 1000], endless=True)
        with pytest.raises(UpstreamRefused) as caught:
            await send(upstream, url, source)
        assert caught.value.status == 401
        # Half a request is on that connection: it is dropped, and the source is asked for nothing more.
        await asyncio.wait_for(left.wait(), 2)
    assert upstream.slots.free == LIMIT


async def test_an_answer_of_a_provider_that_hangs_up_at_once_is_not_lost(upstream: Upstream) -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)  # until it is full
        writer.write(REFUSAL)
        writer.write_eof()
        await asyncio.sleep(0.2)
        writer.close()

    async with server(refusing) as url:
        with pytest.raises(UpstreamRefused) as caught:
            await send(upstream, url, Pieces([b"x" * 64 * KIB] * 1000))
        assert caught.value.status == 401


async def test_a_good_answer_that_comes_early_does_not_cut_the_request_short(upstream: Upstream) -> None:
    got = asyncio.get_running_loop().create_future()

    async def talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{ \r\n")
        got.set_result(await reader.readexactly(5 * MIB))
        writer.write(b"1\r\n}\r\n0\r\n\r\n")

    async with server(talking) as url:
        body = b"".join(bytes([number]) * KIB for number in range(256)) * 20
        assert await send(upstream, url, Pieces([body[:MIB], body[MIB:]], length=len(body))) == b"{ }"
        assert await got == body
    assert upstream.slots.free == LIMIT


async def test_a_provider_that_does_not_read_holds_the_source_back(upstream: Upstream) -> None:
    release = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        while not (await reader.read(MIB)).endswith(b"0\r\n\r\n"):
            pass
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with server(slow) as url:
        source = Pieces([b"x" * 64 * KIB] * 1000)
        call = asyncio.ensure_future(send(upstream, url, source))
        before = -1
        while source.taken != before or not source.taken:
            before = source.taken
            await asyncio.sleep(0.2)
        # What the two kernels and the other side's reader take, and not all 62 MiB.
        assert source.taken < 16 * MIB
        release.set()
        assert await call == b"ok"
        assert source.taken == 1000 * 64 * KIB
    assert upstream.slots.free == LIMIT


async def test_a_connection_that_dies_midway_is_broken_and_was_sent(upstream: Upstream) -> None:
    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100 * KIB)
        writer.transport.abort()

    async with server(dying) as url:
        with pytest.raises(UpstreamBroken) as caught:
            await send(upstream, url, Pieces([b"x" * 64 * KIB] * 100))
        assert caught.value.sent
    assert upstream.slots.free == LIMIT


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.01, 0.1])
async def test_cancelled_at_any_moment_it_leaves_nothing_behind(upstream: Upstream, delay: float) -> None:
    async def reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(KIB):
            await asyncio.sleep(0.001)

    tasks = asyncio.all_tasks()
    async with server(reading) as url:
        source = Pieces([b"x" * 16 * KIB] * 20, endless=True)
        call = asyncio.ensure_future(send(upstream, url, source))
        await asyncio.sleep(delay)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert upstream.slots.free == LIMIT
        assert await eventually(lambda: not (asyncio.all_tasks() - tasks - server_tasks()))
    gc.collect()


def server_tasks() -> set[Any]:
    return {task for task in asyncio.all_tasks() if "handle" in repr(task.get_coro())}


@pytest.mark.parametrize("restarts", [True, False])
async def test_a_kept_connection_that_dies_unanswered_is_tried_afresh_where_the_body_can_be(
    upstream: Upstream, provider: ScriptedUpstream, restarts: bool
) -> None:
    provider.enqueue(json_answer({}), [FIN])
    provider.default = json_answer({"ok": True})
    await send(upstream, provider.url, Pieces([b"first"]))
    source = Pieces([b"second"], restarts=restarts)
    if restarts:
        assert await send(upstream, provider.url, source) == b'{"ok":true}'
        assert [request.body for request in provider.requests] == [b"first", b"second", b"second"]
    else:
        with pytest.raises(GatewayError):
            await send(upstream, provider.url, source)
    assert source.asked == 1 + restarts
    assert upstream.slots.free == LIMIT
