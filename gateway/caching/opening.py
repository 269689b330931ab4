"""The cache of a process, with the shared store that its settings name."""

from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection

from gateway.caching.cache import Cache
from gateway.caching.meanings import Meanings
from gateway.caching.semantic import Embed, Semantic
from gateway.caching.shelves import SharedStore
from gateway.process import Process

if TYPE_CHECKING:
    from gateway.caching.pgvector import Column

MIB = 1024 * 1024


def open_cache(process: Process, embed: Embed) -> Cache:
    """`embed` is the way to embeddings, for aliases that compare questions by what they mean."""
    run = None if settings.GATEWAY_STATELESS else process.sql
    semantic = Semantic(Meanings(process.memory, run, process.clock, column=_column(process)), embed)
    return Cache(process.memory, settings.GATEWAY_CACHE_MEMORY * MIB, _shared(process), semantic)


def _column(process: Process) -> "Column | None":
    """Only PostgreSQL can compare, and only there is any of that imported."""
    if settings.GATEWAY_STATELESS or process.sql is None or connection.vendor != "postgresql":
        return None
    from gateway.caching.pgvector import Column

    return Column(process.sql, process.clock)


def _shared(process: Process) -> SharedStore | None:
    """Redis, else the database; without either each process keeps its own answers alone."""
    if settings.REDIS_URL:
        # Its library comes with an extra of its own.
        from gateway.caching.redis import RedisStore

        return RedisStore(settings.REDIS_URL, process.clock, process.memory)
    if settings.GATEWAY_STATELESS or process.sql is None:
        return None
    from gateway.caching.sql import SqlStore

    return SqlStore(process.sql, process.clock, process.memory, settings.GATEWAY_CACHE_DATABASE * MIB)
