"""The scripted upstream is what other tests believe, so it is tested itself, by plain sockets."""

import asyncio

import pytest

from tests.scripted import FIN, HALF_CLOSE, HANG, RESET, Chunk, Pause, ScriptedUpstream, head, json_answer, sse

GET = b"GET /v1/models?x=%41 HTTP/1.1\r\nHost: a\r\nX-B: 1\r\nx-b: 2\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"
CHUNKED = b"POST /c HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"


async def test_requests_are_recorded_as_they_came_and_a_connection_is_kept() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.default = lambda request: json_answer({"body": request.body.decode()})
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        answers = []
        for raw in (GET, POST, CHUNKED):
            writer.write(raw)
            await reader.readuntil(b"\r\n\r\n")
            answers.append(await reader.readuntil(b"}"))
        first = upstream.requests[0]
        assert (first.method, first.target) == ("GET", "/v1/models?x=%41")
        assert first.headers == [("Host", "a"), ("X-B", "1"), ("x-b", "2")]
        assert answers == [b'{"body":""}', b'{"body":"abc"}', b'{"body":"abc"}']
        assert [request.connection for request in upstream.requests] == [0, 0, 0]
        assert upstream.open_connections == 1
        writer.close()
        await writer.wait_closed()
        await upstream.idle()
        assert upstream.connections[0].left_at is not None


async def test_scripts_are_played_in_order_then_the_default() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.enqueue(sse({"a": 1}, b": ping\n\n", gap=0.001), [head(204), Pause(0.001), FIN])
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        stream = await reader.readuntil(b"0\r\n\r\n")
        assert stream.endswith(
            b'transfer-encoding: chunked\r\n\r\nf\r\ndata: {"a":1}\n\n\r\n8\r\n: ping\n\n\r\n'
            b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        )
        writer.write(GET)
        assert await reader.read() == b"HTTP/1.1 204 Scripted\r\n\r\n"
        writer.close()


async def test_a_reset_is_a_reset() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.default = [head(200), Chunk(b"x"), Pause(0.02), RESET]
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        assert await reader.readexactly(31) == b"HTTP/1.1 200 Scripted\r\n\r\n1\r\nx\r\n"
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_peer_that_leaves_during_a_hang_is_noted() -> None:
    async with ScriptedUpstream() as upstream:
        upstream.default = [b"HTTP/1.1 200 OK\r\n", HALF_CLOSE, HANG]
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(GET)
        assert await reader.read() == b"HTTP/1.1 200 OK\r\n"
        assert upstream.connections[0].left_at is None
        writer.close()
        await upstream.idle()
        assert upstream.connections[0].left.is_set()


async def test_after_stop_the_address_refuses() -> None:
    async with ScriptedUpstream() as upstream:
        await upstream.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", upstream.port)
