"""The gateway on a socket, with a scripted provider behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway import house
from tests.scripted import ScriptedUpstream


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as upstream:
        yield upstream


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
