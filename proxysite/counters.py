"""Cache back ends for django-ratelimit that hold whole numbers only: counters in SQL, or in Redis with SQL behind it.

Each step is one statement, so that no two processes count the same attempt. Django's own database cache reads and then
writes, and its Redis cache unpickles what it finds there.
"""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import structlog
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.core.cache.backends.redis import RedisCache
from django.db import connection

log = structlog.get_logger("counters")

T = TypeVar("T")

ADD = """
INSERT INTO proxysite_counter (key, value, expires_at) VALUES (%s, %s, %s)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at
WHERE proxysite_counter.expires_at <= %s RETURNING value
"""
INCREASE = "UPDATE proxysite_counter SET value = value + %s WHERE key = %s AND expires_at > %s RETURNING value"
READ = "SELECT value FROM proxysite_counter WHERE key = %s AND expires_at > %s"
PRUNE = "DELETE FROM proxysite_counter WHERE expires_at <= %s"


class SqlCounters(BaseCache):
    """`add` and `incr` as django-ratelimit calls them."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Begin a count, and say whether there was none; a count that has expired is none."""
        now = time.time()
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        if self._one(ADD, [self._key(key, version), int(value), now + float(seconds or 0), now]) is None:
            return False
        with connection.cursor() as cursor:
            cursor.execute(PRUNE, [now])
        return True

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Raises ValueError where there is no such count."""
        value = self._one(INCREASE, [delta, self._key(key, version), time.time()])
        if value is None:
            raise ValueError(f"there is no count {key!r}")
        return value

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        value = self._one(READ, [self._key(key, version), time.time()])
        return default if value is None else value

    def _key(self, key: str, version: int | None) -> str:
        return str(self.make_and_validate_key(key, version=version))

    def _one(self, statement: str, values: list[Any]) -> int | None:
        with connection.cursor() as cursor:
            cursor.execute(statement, values)
            row = cursor.fetchone()
        return None if row is None else int(row[0])


class Whole:
    """A serializer for Django's Redis cache: whole numbers, and ValueError for all else."""

    def __init__(self, **_: Any) -> None:
        pass

    def dumps(self, value: Any) -> int:
        return int(value)

    def loads(self, value: Any) -> int:
        return int(value)


class RedisCounters(RedisCache):
    """Redis; where it does not answer, SQL counts, so that the pages work and stay guarded."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        quick = {"socket_connect_timeout": 0.25, "socket_timeout": 0.25, "serializer": Whole}
        super().__init__(server, {**params, "OPTIONS": {**quick, **params.get("OPTIONS", {})}})
        self._instead = SqlCounters("", params)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        return self._either(lambda cache: bool(cache.add(key, value, timeout, version)), super())

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        return self._either(lambda cache: int(cache.incr(key, delta, version)), super())

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        return self._either(lambda cache: cache.get(key, default, version), super())

    def _either(self, step: Callable[[Any], T], redis: Any) -> T:
        from redis.exceptions import RedisError

        try:
            return step(redis)
        except (RedisError, OSError) as error:
            log.warning("redis_does_not_count", error=type(error).__name__)
            return step(self._instead)
