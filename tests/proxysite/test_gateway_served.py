"""The real gateway under `manage.py serve`: a drain with open streams (R26), bodies without end (R22)."""

import asyncio
import re
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from tests.proxysite.commands import Running, manage, production
from tests.proxysite.test_server import free_port
from tests.proxysite.wire import answers, rest

STREAM = b'{"model": "echo", "stream": true, "messages": [{"role": "user", "content": "%s"}]}'


@asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[Running, str]]:
    """The server and a key for the alias `echo`."""
    port = free_port()
    secrets = production()
    done, _ = await asyncio.to_thread(manage, tmp_path, "quickstart", "--no-serve", DJANGO_DEBUG="0", **secrets)
    assert done.returncode == 0, done.stderr
    found = re.search(r"sk-gw-\S+", done.stdout)
    assert found is not None
    async with Running(tmp_path, port, "serve", "--port", str(port), **secrets) as server:
        yield server, found[0]


def upload(key: str) -> bytes:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    return f"{head}Authorization: Bearer {key}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


async def pour(port: int, head: bytes, limit: int) -> tuple[int, int]:
    """Send a chunked body of up to `limit` bytes until the answer comes: (its status, bytes written)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(rest(reader, 20))
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    written = 0
    writer.write(head)
    try:
        while written < limit and not reading.done() and not writer.transport.is_closing():
            writer.write(chunk)
            await writer.drain()
            written += 65536
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    (answer,) = answers(await reading)
    writer.close()
    return answer.status, written


async def test_r22_a_chunked_body_without_end_is_cut_by_the_key_or_by_the_cap(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (server, key):
        status, _ = await pour(server.port, upload("sk-gw-nobody"), 64 * 1024 * 1024)
        assert status == 401
        status, written = await pour(server.port, upload(key), 64 * 1024 * 1024)
        assert status == 413
        assert written < 24 * 1024 * 1024
        assert await server.stop() == 0


async def test_r26_open_streams_of_the_gateway_are_finished_at_sigterm_and_each_has_its_row(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (server, key):
        body = STREAM % (b"word " * 400)
        begun = asyncio.Semaphore(0)

        async def stream() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = upload(key).replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body))
            writer.write(head + body)
            raw = await reader.readuntil(b"data: ")
            begun.release()
            raw += await rest(reader, 35)
            writer.close()
            return raw

        streams = [asyncio.create_task(stream()) for _ in range(50)]
        async with asyncio.timeout(30):
            for _ in streams:
                await begun.acquire()
        began = time.monotonic()
        assert await server.stop() == 0
        assert time.monotonic() - began < 35
        bodies = await asyncio.gather(*streams)
    for raw in bodies:
        assert raw.startswith(b"HTTP/1.1 200 OK\r\n")
        assert raw.count(b"data: [DONE]") + raw.count(b'"stream_interrupted"') == 1
    with closing(sqlite3.connect(tmp_path / "gateway.sqlite3")) as database:
        assert database.execute("SELECT count(*), count(DISTINCT id) FROM ledger_usagerecord").fetchone() == (50, 50)
