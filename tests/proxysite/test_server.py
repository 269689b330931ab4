"""The end of a server: drained, bounded, with status 0 (R26), alone and with workers; real processes and signals."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.proxysite.wire import Answer, answers, say

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
from proxysite.server import configuration, serve
app, port, workers, streams, drain = sys.argv[1], *map(float, sys.argv[2:])
sys.exit(serve(configuration(app, port=int(port), workers=int(workers), streams=streams, drain=drain)))
"""


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


class Server:
    """One started process tree and what can be asked of it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, stopped: Path) -> None:
        self.process, self.port, self.stopped = process, port, stopped
        self.writers: list[asyncio.StreamWriter] = []

    async def ask(self, path: str) -> Answer | None:
        """The answer; None where the connection is refused or closed."""
        try:
            raw = await say(self.port, get(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        except ConnectionError:
            return None
        return answers(raw)[0] if b"content-length" in raw else None

    async def until_ready(self) -> None:
        async with asyncio.timeout(60):
            while (answer := await self.ask("/readyz")) is None or answer.status != 200:
                assert self.process.returncode is None
                await asyncio.sleep(0.05)

    async def stream(self, path: str) -> asyncio.StreamReader:
        """A stream that has begun."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(get(path))
        await reader.readuntil(b"\r\n\r\n")
        return reader

    async def ended(self, seconds: float) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def running(tmp_path: Path, *, workers: int = 1, streams: float = 28, drain: float = 30) -> AsyncIterator[Server]:
    port = free_port()
    stopped = tmp_path / "stopped"
    app = "tests.proxysite.pretend:application"
    arguments = ["-c", RUN, app, str(port), str(workers), str(streams), str(drain)]
    environment = {**os.environ, "PRETEND_STOPPED_FILE": str(stopped)}
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=ROOT, env=environment)
    server = Server(process, port, stopped)
    try:
        await server.until_ready()
        yield server
    finally:
        for writer in server.writers:
            writer.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def read_all(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


async def test_r26_sigterm_refuses_new_work_at_once_lets_streams_finish_and_ends_with_0(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        readers = await asyncio.gather(*(server.stream("/v1/stream/40") for _ in range(50)))
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        ready, work, alive = await server.ask("/readyz"), await server.ask("/v1/x"), await server.ask("/healthz")
        assert ready is not None
        assert (ready.status, ready.body) == (503, b"draining")
        assert work is not None
        assert (work.status, work.body, work.headers["connection"]) == (503, b"shutting_down", "close")
        assert alive is not None
        assert alive.body == b"ok"
        bodies = await asyncio.gather(*map(read_all, readers))
        assert await server.ended(5) == 0
        assert time.monotonic() - began < 10
    assert [body.count(b"data: [DONE]") for body in bodies] == [1] * 50
    assert server.stopped.read_text() == "0\n"


async def test_r26_streams_that_do_not_end_in_time_get_an_error_event_and_the_status_is_0(tmp_path: Path) -> None:
    async with running(tmp_path, streams=1, drain=2) as server:
        reader = await server.stream("/v1/stream/1000")
        server.process.send_signal(signal.SIGTERM)
        body = await read_all(reader)
        assert await server.ended(5) == 0
    assert b'data: {"error":{}}' in body
    assert b"[DONE]" not in body
    assert server.stopped.read_text() == "0\n"


async def test_r26_a_request_that_hangs_is_cancelled_at_the_end_of_the_drain(tmp_path: Path) -> None:
    async with running(tmp_path, streams=0.3, drain=0.6) as server:
        await server.stream("/v1/hang")
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended(6) == 0
    assert 0.5 < time.monotonic() - began < 5
    assert server.stopped.read_text() == "0\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_r26_a_second_signal_does_not_wait(tmp_path: Path, number: signal.Signals) -> None:
    async with running(tmp_path) as server:
        await server.stream("/v1/hang")
        server.process.send_signal(number)
        await asyncio.sleep(0.3)
        assert server.process.returncode is None
        server.process.send_signal(number)
        assert await server.ended(3) == 0
    assert server.stopped.read_text() == "0\n"


async def test_r26_an_idle_server_ends_at_once_and_closes_idle_connections(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(get("/healthz"))
        await reader.readuntil(b"ok")
        server.process.send_signal(signal.SIGTERM)
        assert await read_all(reader) == b""
        assert await server.ended(3) == 0
        writer.close()


async def test_r26_workers_drain_as_one_server_does(tmp_path: Path) -> None:
    async with running(tmp_path, workers=2) as server:
        pids = {answer.body for answer in [await server.ask("/v1/pid") for _ in range(20)] if answer}
        readers = await asyncio.gather(*(server.stream("/v1/stream/40") for _ in range(10)))
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        ready = await server.ask("/readyz")
        assert ready is None or ready.status == 503
        bodies = await asyncio.gather(*map(read_all, readers))
        assert await server.ended(5) == 0
    assert len(pids) <= 2
    assert [body.count(b"data: [DONE]") for body in bodies] == [1] * 10
    assert server.stopped.read_text() == "0\n" * 2


async def test_r26_a_second_signal_reaches_the_workers(tmp_path: Path) -> None:
    async with running(tmp_path, workers=2) as server:
        await server.stream("/v1/hang")
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(1)
        assert server.process.returncode is None
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended(4) == 0


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path, workers=2) as server:
        server.process.kill()
        await server.process.wait()
        async with asyncio.timeout(10):
            while await server.ask("/healthz") is not None:
                await asyncio.sleep(0.1)
            while not server.stopped.exists() or server.stopped.read_text() != "0\n" * 2:
                await asyncio.sleep(0.1)


def test_r26_the_bounds_of_the_drain_are_28_and_30_seconds_and_the_end_within_35() -> None:
    from proxysite.server import GatewayServer, Supervisor, configuration

    config = configuration("tests.proxysite.pretend:application", log_config=None)
    assert (config.streams, config.drain) == (28, 30)
    assert config.drain + 1 + GatewayServer.stop <= 34 < Supervisor.patience
