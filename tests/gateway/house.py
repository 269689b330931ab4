"""A configured gateway on a real socket: rows made through the ORM, requests made through the front door."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
from asgiref.sync import sync_to_async
from django.db import connections

from gateway.asgi import GatewayHandler
from gateway.engine import Engine
from gateway.upstream.client import Upstream
from ledger.models import UsageRecord
from providers.models import ClientKey, ModelAlias, Provider, Route
from proxysite.server import GatewayServer
from tests import canaries
from tests.proxysite.wire import serving

LIMIT = 3  # calls that the fixture `upstream` has under way at once
TOKEN = canaries.PROVIDER_TOKEN  # what the provider knows the gateway by; it must never be seen by a client


def provider(name: str, base_url: str, **fields: Any) -> Provider:
    """A provider with one credential, TOKEN."""
    row = Provider.objects.create(name=name, base_url=base_url, dialect=fields.pop("dialect", "openai"), **fields)
    credential = row.credentials.model(provider=row, name="main")
    credential.seal(TOKEN)
    credential.save()
    return row


def alias(name: str, *routes: tuple[Provider, str], **fields: Any) -> ModelAlias:
    row = ModelAlias.objects.create(name=name, **fields)
    for position, (target, model) in enumerate(routes):
        Route.objects.create(alias=row, provider=target, model=model, position=position)
    return row


def client_key(name: str = "app", **fields: Any) -> tuple[ClientKey, str]:
    key, token = ClientKey.objects.mint(name, **fields)
    return key, canaries.minted(token)


@dataclass
class Door:
    """The running gateway: its address, a key that works, and its ledger."""

    url: str  # with /v1
    key: str
    engine: Engine
    server: GatewayServer

    def client(self, **options: Any) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.url, api_key=options.pop("api_key", self.key), **options)

    def http(self, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, **options)

    async def rows(self, count: int, *, within: float = 3.0) -> list[UsageRecord]:
        """The ledger once it holds `count` rows, oldest first; what it holds when the time is up, otherwise."""
        ends = time.monotonic() + within
        while True:
            rows = await sync_to_async(lambda: list(UsageRecord.objects.order_by("started_at", "id")))()
            if len(rows) >= count or time.monotonic() > ends:
                return rows
            await asyncio.sleep(0.02)


@asynccontextmanager
async def open_house(
    configure: Callable[[], str], data_dir: Path, *, upstream: Upstream | None = None
) -> AsyncIterator[Door]:
    """Run the gateway in this loop. `configure` makes the rows and gives the client key's token."""
    token = await sync_to_async(configure)()
    engine = Engine(data_dir)
    await engine.start(upstream)
    try:
        async with serving(GatewayHandler(engine)) as (port, server):
            yield Door(f"http://127.0.0.1:{port}/v1", token, engine, server)
    finally:
        await engine.stop()
        await sync_to_async(connections.close_all)()


async def eventually(condition: Callable[[], bool], *, within: float = 2.0) -> bool:
    """Whether the condition comes true in that time."""
    ends = time.monotonic() + within
    while not condition():
        if time.monotonic() > ends:
            return False
        await asyncio.sleep(0.01)
    return True
