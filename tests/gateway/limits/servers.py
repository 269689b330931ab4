"""A Redis of a test's own, which it may kill, stop and let go on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from redis import asyncio as aioredis

from tests.machine import redis_path
from tests.proxysite.test_server import free_port


class RedisServer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        path = redis_path()
        assert path is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = await asyncio.create_subprocess_exec(
            path, *options, "--dir", str(self.folder), stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                try:
                    await self.tell("PING")
                except (aioredis.ConnectionError, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def tell(self, *command: str | bytes | int) -> Any:
        client: Any = aioredis.Redis.from_url(self.url)
        async with client:
            return await client.execute_command(*command)

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """From now on the port refuses."""
        assert self.process is not None
        if self.process.returncode is None:
            self.signal(signal.SIGKILL)
            await self.process.wait()


@asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(folder)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
