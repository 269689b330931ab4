"""A gateway whose alias `fast` keeps answers; `lab/*` keeps none. And the databases in which answers may lie."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from django.db import connection

from tests.gateway import house
from tests.gateway.conftest import scripted
from tests.providers.conftest import pgvector, postgres
from tests.scripted import ScriptedUpstream

__all__ = ["pgvector", "postgres", "scripted"]

DATABASES = [
    pytest.param("transactional_db", id="sqlite", marks=pytest.mark.django_db(transaction=True)),
    pytest.param("postgres", id="postgres", marks=pytest.mark.postgres),
    pytest.param("pgvector", id="pgvector", marks=pytest.mark.pgvector),
]


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """SQLite, a PostgreSQL without pgvector, and one with it."""
    request.getfixturevalue(request.param)
    if request.param == "postgres":
        with connection.cursor() as cursor:  # Debian's may have it too
            cursor.execute("DROP EXTENSION IF EXISTS vector CASCADE")
    return "pgvector" if request.param == "pgvector" else "gateway"


@pytest.fixture
async def door(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[house.Door]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"), cache="on")
        house.alias("lab/*", (lab, ""))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened
