"""A gateway whose alias `fast` keeps answers; `lab/*` keeps none."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway import house
from tests.gateway.conftest import scripted
from tests.scripted import ScriptedUpstream

__all__ = ["scripted"]


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"), cache="on")
        house.alias("lab/*", (lab, ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened
