"""The gateway as its users start it: a process of its own, configured by the commands, with a key made by one."""

import asyncio
import json
import re
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import openai

from tests.gateway.house import TOKEN
from tests.migrated import migrate
from tests.proxysite.commands import ROOT, environment, manage
from tests.proxysite.test_server import free_port

CONFIGURATION = """
providers:
  lab: {{dialect: openai, base_url: "{lab}/v1", credentials: {{main: env:LAB_KEY}}}}
  gone: {{dialect: openai, base_url: "http://127.0.0.1:{nobody}/v1", credentials: {{main: env:LAB_KEY}}}}
  slow: {{dialect: openai, base_url: "{lab}/v1", credentials: {{main: env:LAB_KEY}}, timeouts: {{first_byte: 1}}}}
aliases:
  fast: {{routes: [{{provider: lab, model: gpt-4o}}]}}
  gone: {{routes: [{{provider: gone, model: gpt-4o}}]}}
  slow: {{routes: [{{provider: slow, model: gpt-4o}}]}}
  spared: {{routes: [{{provider: gone, model: gpt-4o}}, {{provider: lab, model: gpt-4o}}]}}
  "lab/*": {{routes: [{{provider: lab}}]}}
"""
VALUES = {"DJANGO_DEBUG": "1", "LAB_KEY": TOKEN}
SERVERS = {
    "runserver": ("manage.py", "runserver", "127.0.0.1:{port}"),
    "uvicorn": ("-m", "uvicorn", "proxysite.asgi:application", "--port", "{port}", "--log-level", "warning"),
}


@dataclass(frozen=True)
class Gateway:
    """The address, with /v1, and the key: all that a client is told."""

    url: str
    key: str

    def sync_client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=options.pop("api_key", self.key), **options)

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key=options.pop("api_key", self.key), **options)

    def http(self, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, timeout=20, **options)


async def configure(data_dir: Path, text: str, values: dict[str, str] = VALUES) -> str:
    """Import the configuration, make a key: its token."""
    file = data_dir / "gateway.yaml"
    file.write_text(text)
    answer = ""
    # A budget would have each answer bounded, and a rate the tests.
    key = ("create_client_key", "app", "--rpm", "0", "--budget", "none", "--json")
    await asyncio.to_thread(migrate, f"sqlite:///{data_dir / 'gateway.sqlite3'}")
    for arguments in (("import_config", str(file)), key):
        done, _ = await asyncio.to_thread(manage, data_dir, *arguments, **values)
        assert done.returncode == 0, done.stdout + done.stderr
        answer = done.stdout
    token: str = json.loads(answer)["key"]
    return token


class Process:
    """`async with Process(arguments, ...)`: one server, from its first good answer to its end."""

    def __init__(self, arguments: list[str], output: Path, env: dict[str, str]) -> None:
        self.arguments, self.output, self.env = arguments, output, env

    async def __aenter__(self) -> Self:
        with self.output.open("wb") as output:
            self.process = await asyncio.create_subprocess_exec(
                *self.arguments, cwd=ROOT, env=self.env, stdout=output, stderr=output
            )
        return self

    async def until(self, pattern: str, *, within: float = 30.0) -> re.Match[str]:
        """The first place in its output that matches."""
        async with asyncio.timeout(within):
            while (found := re.search(pattern, self.output.read_text())) is None:
                assert self.process.returncode is None, self.output.read_text()
                await asyncio.sleep(0.05)
        return found

    async def answers(self, url: str, *, within: float = 60.0) -> None:
        """Returns once a GET is answered with 200."""
        async with asyncio.timeout(within), httpx.AsyncClient(trust_env=False) as http:
            while True:
                assert self.process.returncode is None, self.output.read_text()
                try:
                    if (await http.get(url)).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


class Servers:
    """The servers in front of one configuration, each started when first asked for; they share a data directory."""

    def __init__(self, data_dir: Path, stack: AsyncExitStack, configuration: str) -> None:
        self.data_dir, self.stack, self.configuration = data_dir, stack, configuration
        self.key = ""
        self.running: dict[str, Gateway] = {}

    async def get(self, name: str) -> Gateway:
        if not self.key:
            self.key = await configure(self.data_dir, self.configuration)
        if name not in self.running:
            port = free_port()
            arguments = [sys.executable, *(part.format(port=port) for part in SERVERS[name])]
            process = Process(arguments, self.data_dir / f"{name}.txt", environment(self.data_dir, VALUES))
            await self.stack.enter_async_context(process)
            await process.answers(f"http://127.0.0.1:{port}/readyz")
            self.running[name] = Gateway(f"http://127.0.0.1:{port}/v1", self.key)
        return self.running[name]
