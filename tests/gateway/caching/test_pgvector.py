"""PostgreSQL compares questions itself where it has pgvector, now or later; while it is away nobody gets an error."""

import io
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.db import connection, connections
from pytest_django import DjangoDbBlocker

from gateway.caching import pgvector as column
from gateway.caching import vectors
from gateway.caching.meanings import NEAREST, Meanings
from gateway.caching.pgvector import Column
from gateway.caching.vectors import Direction
from gateway.checks import check_comparing
from gateway.models import KeptQuestion
from gateway.process import Memory
from tests.cluster import Cluster
from tests.gateway import house
from tests.gateway.caching.test_semantic import CAPITAL, PARIS, WEATHER, ask, cache_of, configure, forget, found
from tests.gateway.house import Door
from tests.machine import pgvector_binaries
from tests.providers.conftest import default_database
from tests.scripted import ScriptedUpstream

pytestmark = pytest.mark.pgvector

HERE, THERE = bytes(range(32)), bytes(32)


async def direct(job: Any, *arguments: Any) -> Any:
    return await sync_to_async(job)(*arguments)


def meanings(account: Memory | None = None, *, compares: bool = True) -> Meanings:
    """What a process that has just begun knows."""
    made = Column(direct, time.monotonic) if compares else None
    return Meanings(account or Memory(), direct, time.monotonic, column=made)


def statement(text: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchall() if cursor.description else None


def run_command() -> str:
    out = io.StringIO()
    call_command("use_pgvector", stdout=out)
    return out.getvalue()


@pytest.fixture
async def database(pgvector: None) -> AsyncIterator[None]:
    yield
    await sync_to_async(connections.close_all)()


def any_direction(rng: random.Random, size: int) -> Direction:
    return vectors.direction([rng.gauss(0, 1) for _ in range(size)])


def _near(one: Direction, rng: random.Random) -> Direction:
    spread = 0.3 / len(one.numbers) ** 0.5
    return vectors.direction([number + rng.gauss(0, spread) for number in one.numbers.tolist()])


@pytest.mark.parametrize("size", [8, 24, 1536, 3072])
async def test_it_finds_what_a_comparison_with_each_of_them_finds(database: None, size: int) -> None:
    rng = random.Random(size)
    known: dict[bytes, Direction] = {}
    writer = meanings()
    for n in range(150):
        name = rng.randbytes(32)
        known[name] = any_direction(rng, size)
        writer.add(HERE, name, known[name], 60)
        # Neither another place nor another number of dimensions is ever compared.
        writer.add(THERE, rng.randbytes(32), known[name], 60)
        writer.add(HERE, rng.randbytes(32), any_direction(rng, size + 1 + n % 3), 60)
    await writer.tend()
    await writer.tend()
    reader, brute = meanings(), meanings(compares=False)
    for wanted in [any_direction(rng, size), *(_near(one, rng) for one in rng.sample(list(known.values()), 12))]:
        exact = sorted(((wanted.similarity(one), name) for name, one in known.items()), reverse=True)[:NEAREST]
        told = await reader.nearest(HERE, wanted)
        assert told == [(name, similarity) for similarity, name in exact]
        if told[0][1] > 0.9:  # where the gateway's own comparison is exact too
            assert told[0] == (await brute.nearest(HERE, wanted))[0]
    assert reader.compared_by == "pgvector"


async def test_what_is_over_is_not_found(database: None) -> None:
    writer, one = meanings(), vectors.direction([1.0, 2.0])
    writer.add(HERE, bytes(32), one, -1.0)
    await writer.tend()
    assert await meanings().nearest(HERE, one) == []


async def test_what_an_older_process_writes_is_filled_in_and_other_bytes_go(database: None) -> None:
    one, reader = vectors.direction([1.0, 2.0]), meanings()
    facts = {"place": HERE.hex(), "at": time.time(), "expires_at": time.time() + 60}

    def write() -> None:
        KeptQuestion.objects.create(id="a", answer=bytes(32).hex(), vector=one.bytes(), **facts)
        for n, data in enumerate((b"", b"hostile!", b"\xff" * 4000, bytes(8))):
            KeptQuestion.objects.create(id=str(n), answer=HERE.hex(), vector=data, **facts)

    await sync_to_async(write)()
    assert await reader.nearest(HERE, one) == []
    await meanings().tend()
    assert [(name, round(similarity, 6)) for name, similarity in await reader.nearest(HERE, one)] == [(bytes(32), 1.0)]
    assert await sync_to_async(KeptQuestion.objects.count)() == 1
    # What another hand does to the bytes then, or to the name, is no answer.
    await sync_to_async(KeptQuestion.objects.update)(vector=b"hostile!")
    assert await reader.nearest(HERE, one) == []
    await sync_to_async(KeptQuestion.objects.update)(vector=one.bytes(), answer="no name")
    assert await reader.nearest(HERE, one) == []


# --- an extension that comes, goes, or lies elsewhere ---


def without_extension() -> None:
    statement("DROP EXTENSION vector CASCADE")


@pytest.fixture
async def door(pgvector: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """It begins without pgvector, on a server that has it."""
    await sync_to_async(without_extension)()
    async with house.open_house(lambda: configure(scripted), tmp_path) as opened:
        yield opened


async def test_where_it_is_installed_later_a_command_turns_it_on_without_a_restart(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(door)
    async with door.http() as http:
        assert [found(await ask(http, one)) for one in (PARIS, CAPITAL)] == [("miss", None), ("hit", "0.020000")]
        await cache.tend()
        assert cache.compared_by == "gateway"
        [told] = await sync_to_async(check_comparing)(["default"])
        assert (told.id, "use_pgvector" in str(told.hint)) == ("gateway.I001", True)
        assert "1 that were kept before are filled in" in await sync_to_async(run_command)()
        assert "0 that were kept before" in await sync_to_async(run_command)()
        assert await sync_to_async(check_comparing)(["default"]) == []
        assert cache.compared_by == "gateway"  # it looks once a minute
        monkeypatch.setattr(column, "LOOK_EVERY", 0.1)
        assert await house.eventually(lambda: cache.compared_by == "pgvector")
        forget(door)
        monkeypatch.delattr("gateway.caching.meanings._read")
        assert found(await ask(http, CAPITAL)) == ("hit", "0.020000")


async def test_where_it_is_taken_away_the_gateway_compares_again(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(door)
    monkeypatch.setattr(column, "LOOK_EVERY", 0.1)
    await sync_to_async(run_command)()
    assert await house.eventually(lambda: cache.compared_by == "pgvector")
    async with door.http() as http:
        assert found(await ask(http, PARIS)) == ("miss", None)
        await cache.tend()
        await sync_to_async(without_extension)()
        assert found(await ask(http, CAPITAL)) == ("hit", "0.020000")
        assert cache.compared_by == "gateway"
        assert found(await ask(http, WEATHER)) == ("miss", None)
        await cache.tend()
        assert await sync_to_async(KeptQuestion.objects.count)() == 2


@pytest.fixture
def modest_url(pgvector_url: str) -> Iterator[str]:
    """The URL of a database for a role that owns it and may make no extension."""
    name = pgvector_url.rpartition("/")[2]
    with psycopg.connect(pgvector_url, autocommit=True) as server:
        server.execute("CREATE ROLE modest LOGIN")
        server.execute(f"ALTER DATABASE {name} OWNER TO modest")
    yield pgvector_url.replace("postgres@", "modest@")
    with psycopg.connect(pgvector_url.rpartition("/")[0] + "/postgres", autocommit=True) as server:
        server.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        server.execute("REASSIGN OWNED BY modest TO postgres")
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        server.execute("DROP ROLE modest")
        server.execute(f"CREATE DATABASE {name}")


async def test_a_role_that_may_not_install_it_migrates_and_uses_it_where_another_has_put_it(
    modest_url: str, pgvector_url: str, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock():
        manager = default_database(modest_url, django_db_blocker)
        await sync_to_async(manager.__enter__)()
        try:
            with pytest.raises(CommandError, match="permission denied to create extension"):
                await sync_to_async(run_command)()
            with psycopg.connect(pgvector_url, autocommit=True) as server:
                server.execute('CREATE SCHEMA "Odd ""one"')
                server.execute('CREATE EXTENSION vector SCHEMA "Odd ""one"')
            with pytest.raises(CommandError, match="permission denied for schema"):
                await sync_to_async(run_command)()
            with psycopg.connect(pgvector_url, autocommit=True) as server:
                server.execute('GRANT USAGE ON SCHEMA "Odd ""one" TO modest')
            await sync_to_async(run_command)()
            writer, one, reader = meanings(), vectors.direction([1.0, 2.0]), meanings()
            writer.add(HERE, bytes(32), one, 60)
            await writer.tend()
            assert [name for name, _ in await reader.nearest(HERE, one)] == [bytes(32)]
            assert reader.compared_by == "pgvector"
        finally:
            await sync_to_async(connections.close_all)()
            await sync_to_async(manager.__exit__)(None, None, None)


async def test_the_migration_can_be_undone_and_done_again(database: None) -> None:
    def migrate(name: str) -> str | None:
        call_command("migrate", "gateway", name, verbosity=0, skip_checks=True)
        return column.schema()

    assert await sync_to_async(column.schema)() == "public"
    assert await sync_to_async(migrate)("0006") is None
    assert await sync_to_async(migrate)("0007") == "public"


# --- the database is away ---


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(pgvector_binaries()) as running:
        yield running


@pytest.fixture
async def lonely(
    cluster: Cluster, tmp_path: Path, scripted: ScriptedUpstream, django_db_blocker: DjangoDbBlocker
) -> AsyncIterator[Door]:
    """On a database of its own that can be killed."""
    manager = default_database(cluster.url, django_db_blocker)
    await sync_to_async(manager.__enter__)()
    try:
        async with house.open_house(lambda: configure(scripted), tmp_path) as opened:
            assert await house.eventually(lambda: cache_of(opened).compared_by == "pgvector")
            yield opened
    finally:
        await sync_to_async(manager.__exit__)(None, None, None)


@pytest.mark.parametrize("how", ["killed", "hung"])
async def test_while_the_database_is_away_this_process_compares_what_it_knows_and_nobody_gets_an_error(
    lonely: Door, cluster: Cluster, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(lonely)
    async with lonely.http(timeout=30) as http:
        assert found(await ask(http, PARIS)) == ("miss", None)
        await cache.tend()
        assert found(await ask(http, CAPITAL)) == ("hit", "0.020000")
        await sync_to_async(cluster.kill if how == "killed" else cluster.stop)()
        try:
            told = [found(await ask(http, CAPITAL)) for _ in range(3)]
            assert found(await ask(http, WEATHER)) == ("miss", None)
            assert found(await ask(http, WEATHER)) == ("hit", None)
            assert cache.compared_by == "gateway"
        finally:
            await sync_to_async(cluster.start if how == "killed" else cluster.go_on)()
        assert told == [("hit", "0.020000")] * 3
        monkeypatch.setattr(column, "LOOK_EVERY", 0.1)
        assert await house.eventually(lambda: cache.compared_by == "pgvector", within=20)
        # What was asked meanwhile is there for the others.
        await sync_to_async(connections.close_all)()
        assert await house.eventually(lambda: not cache.semantic.meanings._waiting, within=20)
        assert await sync_to_async(KeptQuestion.objects.count)() == 2
