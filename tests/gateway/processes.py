"""Gateways in processes of their own on one database, and an operator who edits it from yet another process."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from tests.migrated import migrate
from tests.proxysite.commands import ROOT, environment, production
from tests.proxysite.test_server import free_port

OPERATE = """
import json, sys, django
django.setup()
from ledger.models import UsageRecord
from providers.models import ClientKey, ModelAlias, Provider, Route
from tests.gateway import house
for line in sys.stdin:
    names = {"result": None}
    exec(json.loads(line), globals(), names)
    print(json.dumps(names["result"]), flush=True)
"""
SERVE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proxysite.settings")
from proxysite.server import configuration, serve
port, streams, drain = map(float, sys.argv[1:])
sys.exit(serve(configuration(port=int(port), streams=streams, drain=drain)))
"""


class Site:
    """One migrated database with its secrets: what an operator has set up, and the gateways that serve it."""

    def __init__(self, folder: Path, upstream_port: int, database_url: str = "") -> None:
        self.folder = folder
        self.values = production(GATEWAY_PRIVATE_UPSTREAMS=f"127.0.0.1:{upstream_port}")
        self.values["DATABASE_URL"] = database_url or f"sqlite:///{folder / 'gateway.sqlite3'}"
        self.upstream = f"http://127.0.0.1:{upstream_port}/v1"
        self.key = ""

    @classmethod
    @asynccontextmanager
    async def again(cls, site: "Site") -> AsyncIterator["Site"]:
        """Another operator of the same site, where the first one's connection is gone."""
        other = cls.__new__(cls)
        other.__dict__.update(site.__dict__)
        await other.begin()
        try:
            yield other
        finally:
            await other.__aexit__()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(migrate, self.values["DATABASE_URL"])
        await self.begin()
        self.key = await self.operate(
            f"lab = house.provider('lab', {self.upstream!r})\n"
            "house.alias('fast', (lab, 'gpt-4o'))\n"
            "result = house.client_key()[1]"
        )
        return self

    async def begin(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            OPERATE,
            cwd=ROOT,
            env={**self.environment(self.folder), "DJANGO_SETTINGS_MODULE": "proxysite.settings"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**26,
        )

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()

    def environment(self, folder: Path) -> dict[str, str]:
        return environment(folder, self.values)

    async def operate(self, code: str) -> Any:
        """Run `code` in the operator's process: what it has put into `result`, once it is committed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        async with asyncio.timeout(30):
            return json.loads(await self.process.stdout.readline())

    async def rows(self, count: int, *, within: float = 10.0) -> list[dict[str, Any]]:
        """The ledger once it holds `count` rows, or when the time is up."""
        names = "'id', 'outcome', 'flagged', 'sent', 'status', 'error_code'"
        ends = asyncio.get_running_loop().time() + within
        while True:
            rows: list[dict[str, Any]] = await self.operate(f"result = list(UsageRecord.objects.values({names}))")
            if len(rows) >= count or asyncio.get_running_loop().time() > ends:
                return rows
            await asyncio.sleep(0.1)


class Gateway:
    """`manage.py serve`, or with `drain` (seconds until streams are ended, until all ends) the same server with it."""

    def __init__(self, site: Site, name: str, *, drain: tuple[float, float] | None = None) -> None:
        self.site = site
        self.folder = site.folder / name
        self.port = free_port()
        self.output = site.folder / f"{name}.txt"
        self.command = ["manage.py", "serve", "--port", str(self.port)]
        if drain is not None:
            self.command = ["-c", SERVE, str(self.port), *map(str, drain)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return self.site.key

    async def __aenter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.command,
                cwd=ROOT,
                env=self.site.environment(self.folder),
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(60):
            while await self.status("/readyz") != 200:
                assert self.process.returncode is None, self.output.read_text()
                await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def http(self, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.site.key}"}
        return httpx.AsyncClient(base_url=self.url + "/v1", headers=headers, trust_env=False, **options)

    async def status(self, path: str) -> int:
        """Of a GET on a connection of its own; 0 where nobody listens."""
        try:
            async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=5) as http:
                return (await http.get(path)).status_code
        except httpx.TransportError:
            return 0

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    async def ended(self, seconds: float) -> int:
        async with asyncio.timeout(seconds):
            return await self.process.wait()
