"""Answers that all processes share, in Redis or SQL: what goes wrong there is a miss, and never an error."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings

from gateway.caching import kept
from gateway.caching.kept import Facts, Kept, frame, unframe
from gateway.caching.redis import PREFIX, RedisStore
from gateway.caching.sql import FAILURES, SqlStore
from gateway.models import CachedAnswer
from gateway.process import Memory
from tests.gateway import golden, house
from tests.gateway.caching.conftest import DATABASES
from tests.gateway.house import Door
from tests.gateway.limits.servers import RedisServer, redis_server
from tests.scripted import ScriptedUpstream, json_answer

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "Hello!"}]}
NAME = bytes(range(32))
ANSWER = Kept(Facts(time.time(), "plain", "key", "", "gpt-4o"), b'{"choices":[]}')


def configure(scripted: ScriptedUpstream) -> str:
    lab = house.provider("lab", scripted.url + "/v1")
    house.alias("fast", (lab, "gpt-4o"), cache="on", cache_store="shared")
    return house.client_key()[1]


async def ask(http: httpx.AsyncClient, body: dict[str, Any] = ASK) -> str:
    answer = await http.post("/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json() == golden.COMPLETION
    return str(answer.headers["x-gateway-cache"])


def forget(door: Door) -> None:
    """What this process has in memory, as if it were another one."""
    assert door.engine.process is not None
    door.engine.process.cache.memory.clear()


async def settled(door: Door) -> None:
    """Until all that is kept is written."""
    assert door.engine.process is not None
    pending = door.engine.process.cache.shared._pending
    assert await house.eventually(lambda: not pending._size)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path) as started:
        yield started


@pytest.fixture
async def redis_door(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, server: RedisServer
) -> AsyncIterator[Door]:
    with override_settings(REDIS_URL=server.url):
        async with house.open_house(lambda: configure(scripted), tmp_path) as door:
            yield door


@pytest.fixture(params=DATABASES[:2])
def migrated(request: pytest.FixtureRequest) -> None:
    """SQLite, and PostgreSQL."""
    request.getfixturevalue(request.param)


@pytest.fixture
async def sql(migrated: None) -> AsyncIterator[None]:
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
async def sql_door(migrated: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    async with house.open_house(lambda: configure(scripted), tmp_path) as door:
        yield door


# --- the form ---


def test_a_frame_is_read_as_it_was_written_and_under_its_own_name_only() -> None:
    data = frame(NAME, ANSWER)
    assert unframe(NAME, data) == ANSWER
    assert unframe(bytes(32), data) is None


def test_every_byte_of_a_frame_counts() -> None:
    data = frame(NAME, ANSWER)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert unframe(NAME, changed) is None, place
        assert unframe(NAME, data[:place]) is None, place
    assert unframe(NAME, data + b"x") is None


# --- Redis ---


@pytest.mark.redis
async def test_another_process_finds_in_redis_what_one_has_kept(
    redis_door: Door, scripted: ScriptedUpstream, server: RedisServer
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with redis_door.http() as http:
        assert await ask(http) == "miss"
        await settled(redis_door)
        forget(redis_door)
        assert await ask(http) == "hit"
    [key] = await server.tell("KEYS", "gateway:cache:*")
    assert 3_500_000 < int(str(await server.tell("PTTL", key))) <= 3_600_000
    assert b"Hello" not in key


HOSTILE: list[tuple[Any, ...]] = [
    ("SET", b"\x80\x04\x95cos\nsystem\n"),
    ("SET", b"gwc1" + bytes(300)),
    ("SET", b""),
    ("SET", frame(bytes(32), ANSWER)),  # another answer, put under this name
    ("SETRANGE", 200_000_000, b"x"),
    ("LPUSH", b"a list"),
]


@pytest.mark.redis
async def test_hostile_bytes_in_redis_are_a_miss(
    redis_door: Door, scripted: ScriptedUpstream, server: RedisServer
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with redis_door.http() as http:
        assert await ask(http) == "miss"
        await settled(redis_door)
        [key] = await server.tell("KEYS", "gateway:cache:*")
        for verb, *values in HOSTILE:
            await server.tell("DEL", key)
            await server.tell(verb, key, *values)
            forget(redis_door)
            assert await ask(http) == "miss", values
            await settled(redis_door)
    assert len(scripted.requests) == 1 + len(HOSTILE)


@pytest.mark.redis
@pytest.mark.parametrize("how", ["refused", "hung"])
async def test_without_redis_requests_go_on_and_soon_without_waiting(
    redis_door: Door, scripted: ScriptedUpstream, server: RedisServer, how: str
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    if how == "hung":
        server.signal(signal.SIGSTOP)
    else:
        await server.kill()
    try:
        async with redis_door.http() as http:
            for n in range(6):
                assert await ask(http, {**ASK, "seed": n}) == "miss"
            # Memory still serves.
            assert await ask(http, {**ASK, "seed": 5}) == "hit"
        assert redis_door.engine.process is not None
        link = redis_door.engine.process.cache.shared.link
        assert link.resting
    finally:
        if how == "hung":
            server.signal(signal.SIGCONT)


@pytest.mark.redis
async def test_a_read_waits_for_redis_no_longer_than_its_time(server: RedisServer) -> None:
    store = RedisStore(server.url, time.monotonic, Memory())
    store.put(NAME, ANSWER, 60)
    await asyncio.sleep(0.2)
    assert await store.get([NAME]) == [ANSWER]
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert [await store.get([NAME]) for _ in range(20)] == [[None]] * 20
        assert time.monotonic() - began < 1.0
    finally:
        server.signal(signal.SIGCONT)
        await store.close()


@pytest.mark.redis
async def test_what_is_too_large_is_not_read_from_redis(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.caching.redis.MAX_FRAME", 100)
    store = RedisStore(server.url, time.monotonic, Memory())
    await server.tell("SET", PREFIX + NAME, b"x" * 10_000_000)
    read = await store._read([NAME])
    assert [len(value) for value in read] == [101]
    await store.close()


# --- SQL ---


async def test_another_process_finds_in_the_database_what_one_has_kept(
    sql_door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with sql_door.http() as http:
        assert await ask(http) == "miss"
        await settled(sql_door)
        forget(sql_door)
        assert await ask(http) == "hit"
        row = await sync_to_async(CachedAnswer.objects.get)()
        assert row.size == len(row.value)
        assert 3500 < row.expires_at - time.time() <= 3600
        for value in (b"", b"junk", b"gwc1" + bytes(100), bytes(row.value)[:-1]):
            await sync_to_async(lambda value=value: CachedAnswer.objects.update(value=value))()
            forget(sql_door)
            assert await ask(http) == "miss"
            await settled(sql_door)
    assert len(scripted.requests) == 5


async def direct(job: Any, *arguments: Any) -> Any:
    return await sync_to_async(job)(*arguments)


async def test_the_table_is_bounded_and_pruned_a_little_at_a_time(sql: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.caching.sql.PRUNE_ROWS", 20)
    clock = [0.0]
    store = SqlStore(direct, lambda: clock[0], Memory(), capacity=100_000, wall=lambda: 1000.0 + clock[0])
    big = Kept(Facts(1000.0, "plain"), b"x" * 2000)
    for n in range(100):
        store.put(n.to_bytes(32, "big"), big, 50.0 + n)
    await store.tend()
    count = sync_to_async(CachedAnswer.objects.count)
    assert await count() == 100
    clock[0] = 61.0  # the first 12 have expired, and it is all too much
    for _ in range(10):
        await store.tend()
    left = await sync_to_async(lambda: sorted(CachedAnswer.objects.values_list("pk", flat=True)))()
    assert len(left) == 40
    assert left[0] == (60).to_bytes(32, "big").hex()
    assert await store.get([(99).to_bytes(32, "big"), bytes(32)]) == [big, None]
    clock[0] = 200.0
    assert await store.get([(99).to_bytes(32, "big")]) == [None]
    for _ in range(10):
        await store.tend()
    assert await count() == 0


async def test_what_two_processes_write_at_once_is_kept_once_and_read_by_both(sql: None) -> None:
    stores = [SqlStore(direct, time.monotonic, Memory(), capacity=10**9) for _ in range(2)]
    names = [n.to_bytes(32, "big") for n in range(120)]
    for store, order in zip(stores, (names, names[::-1]), strict=True):
        for name in order:
            store.put(name, ANSWER, 60)
    await asyncio.gather(*(store.tend() for store in stores))
    for store in stores:
        assert await store.get(names) == [ANSWER] * len(names)
    assert await sync_to_async(CachedAnswer.objects.count)() == len(names)


async def test_without_the_database_a_read_is_a_miss_and_soon_is_not_tried() -> None:
    tries = 0

    async def away(job: Any, *arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        raise OSError

    store = SqlStore(away, time.monotonic, Memory(), capacity=100)
    assert [await store.get([NAME]) for _ in range(10)] == [[None]] * 10
    assert tries == FAILURES


async def test_what_waits_for_being_written_is_bounded_and_stands_on_the_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.caching.pending.CAPACITY", 50_000)
    account = Memory()
    store = SqlStore(direct, time.monotonic, account, capacity=100)
    for n in range(1000):
        store.put(n.to_bytes(32, "big"), Kept(Facts(0.0, "plain"), b"x" * 1000), 60)
    assert 40_000 < account.held <= 50_000
    assert kept.MAX_FRAME > 50_000
