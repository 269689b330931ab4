"""The gateway on a socket, with a scripted provider behind it."""

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest

from gateway.upstream.client import Upstream, UpstreamReply
from providers.addresses import AddressPolicy
from tests.gateway import house
from tests.scripted import ScriptedUpstream


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def provider(scripted: ScriptedUpstream) -> ScriptedUpstream:
    """The same, for single calls with no gateway before them."""
    return scripted


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream(AddressPolicy([], development=True), limit=house.LIMIT)
    yield upstream
    await upstream.aclose()


@pytest.fixture
async def remembered(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No reader of an upstream's body is closed by being forgotten: what is not closed on purpose stays open."""
    kept: list[AsyncGenerator[bytes, None]] = []
    real = UpstreamReply.chunks

    def chunks(self: UpstreamReply) -> AsyncIterator[bytes]:
        reader = real(self)
        assert isinstance(reader, AsyncGenerator)
        kept.append(reader)
        return reader

    monkeypatch.setattr(UpstreamReply, "chunks", chunks)
    yield
    for reader in kept:
        await reader.aclose()


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    """Alias `fast` leads to `gpt-4o` at the scripted provider; the key may use every alias."""

    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("lab/*", (lab, ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened
