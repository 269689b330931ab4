"""What could be better in how the gateway runs, said beforehand (`manage.py check --database default`)."""

from collections.abc import Sequence
from typing import Any

from django.core.checks import CheckMessage, Info, Tags, register
from django.db import DatabaseError, connection


@register(Tags.database)
def check_comparing(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.I001: a PostgreSQL that could compare the questions of semantic caches itself, and does not."""
    if not databases or "default" not in databases or connection.vendor != "postgresql":
        return []
    from gateway.caching import pgvector
    from providers.models import ModelAlias

    aliases = ModelAlias.objects.filter(enabled=True).exclude(cache="off").exclude(cache_semantic="")
    try:
        if pgvector.schema() is not None or not aliases.exists():
            return []
    except DatabaseError:  # not there, or not migrated yet
        return []
    return [
        Info(
            "The gateway's processes compare the questions of semantic caches themselves, since the database has no "
            "pgvector.",
            hint="Install pgvector on the database's server and run manage.py use_pgvector.",
            id="gateway.I001",
        )
    ]
