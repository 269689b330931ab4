"""The back ends that count attempts."""

import asyncio
import concurrent.futures
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import time_machine
from django.core.cache.backends.base import BaseCache
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connections
from pytest_django import Settings

from proxysite.counters import RedisCounters, SqlCounters, Whole
from proxysite.models import Counter
from tests.gateway.limits.servers import redis_server
from tests.providers.conftest import postgres

__all__ = ["postgres"]


def add_or_increase(cache: BaseCache, key: str) -> int:
    try:
        return 1 if cache.add(key, 1, 60) else int(cache.incr(key))
    finally:
        connections.close_all()


@pytest.mark.django_db
def test_a_count_begins_grows_and_expires() -> None:
    cache = SqlCounters("", {})
    with time_machine.travel(1_800_000_000, tick=False) as clock:
        assert cache.add("a", 1, 60)
        assert not cache.add("a", 1, 60)
        assert [cache.incr("a"), cache.incr("a", 3), cache.get("a")] == [2, 5, 5]
        clock.shift(60)
        assert cache.get("a", 0) == 0
        with pytest.raises(ValueError, match="there is no count 'a'"):
            cache.incr("a")
        assert cache.add("a", 1, 60)
        assert cache.get("a") == 1


@pytest.mark.django_db
def test_what_has_expired_is_deleted_with_the_next_new_count() -> None:
    cache = SqlCounters("", {})
    cache.add("old", 1, 0.01)
    time.sleep(0.02)
    cache.add("new", 1, 60)
    assert [row.key.rpartition(":")[2] for row in Counter.objects.all()] == ["new"]


@pytest.mark.django_db(transaction=True)
def test_no_two_attempts_have_the_same_number() -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: add_or_increase(SqlCounters("", {}), "a"), range(80)))
    assert sorted(counts) == list(range(1, 81))


@pytest.fixture
def nothing_listens() -> Iterator[RedisCounters]:
    cache = RedisCounters("redis://127.0.0.1:1/0", {})
    yield cache
    cache.close()


@pytest.mark.django_db
def test_r36_without_redis_sql_counts(nothing_listens: RedisCounters) -> None:
    assert nothing_listens.add("a", 1, 60)
    assert not nothing_listens.add("a", 1, 60)
    assert nothing_listens.incr("a") == 2
    assert SqlCounters("", {}).get("a") == 2


def test_s58_a_poisoned_value_is_no_number_and_runs_nothing() -> None:
    import pickle

    with pytest.raises(ValueError):
        Whole().loads(pickle.dumps(print))


def test_the_packages_own_check_refuses_caches_that_do_not_count(settings: Settings) -> None:
    call_command("check", "--fail-level", "WARNING")
    settings.CACHES = {"ratelimit": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
    with pytest.raises(SystemCheckError, match=r"django_ratelimit\.E003"):
        call_command("check")


@pytest.mark.postgres
def test_on_postgresql_counts_are_the_same(postgres: None) -> None:
    cache = SqlCounters("", {})
    assert cache.add("a", 1, 0.2)
    assert not cache.add("a", 1, 60)
    assert [cache.incr("a"), cache.get("a")] == [2, 2]
    time.sleep(0.25)
    assert cache.get("a", 0) == 0
    assert cache.add("a", 1, 60)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: add_or_increase(SqlCounters("", {}), "b"), range(80)))
    assert sorted(counts) == list(range(1, 81))


@pytest.mark.redis
async def test_redis_counts_whole_numbers(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as server:
        cache = RedisCounters(server.url, {})
        assert await asyncio.to_thread(cache.add, "a", 1, 60)
        assert not await asyncio.to_thread(cache.add, "a", 1, 60)
        assert await asyncio.to_thread(cache.incr, "a") == 2
        assert await asyncio.to_thread(cache.get, "a") == 2
