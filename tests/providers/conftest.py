"""What the tests of this room share: a clock, an empty catalog, and a PostgreSQL in place of SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import environ
import pytest
from asgiref.local import Local
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connections
from django.test import Client
from pytest_django import DjangoDbBlocker, Settings

from providers import catalog, keyring
from providers.snapshot import Catalog
from tests.migrated import migrate


class Clock:
    """Wall and monotonic time, moved by hand; seconds."""

    def __init__(self) -> None:
        self.wall_time = 1_800_000_000.0
        self.monotonic_time = 1000.0

    def wall(self) -> float:
        return self.wall_time

    def monotonic(self) -> float:
        return self.monotonic_time

    def move(self, seconds: float) -> None:
        self.wall_time += seconds
        self.monotonic_time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fresh() -> Iterator[None]:
    """A process that knows nothing yet."""
    catalog.install(Catalog())
    keyring.forget(None)
    yield
    catalog.install(Catalog())
    keyring.forget(None)


@contextmanager
def default_database(url: str, blocker: DjangoDbBlocker, *, migrated: bool = False) -> Iterator[None]:
    """The default database is this one, migrated, in every thread."""
    kept: dict[str, Any] = connections.settings["default"]
    handler: Any = connections
    known = handler._connections
    with blocker.unblock():
        connections.settings["default"] = {**kept, "OPTIONS": {}, **environ.Env.db_url_config(url)}
        # A thread that has used the other one before would go on with it.
        handler._connections = Local(handler.thread_critical)
        try:
            if not migrated:
                call_command("migrate", verbosity=0, skip_checks=True)
            yield
        finally:
            connections["default"].close()
            connections.settings["default"] = kept
            handler._connections = known


@pytest.fixture
def postgres(postgres_url: str, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The default database is an own, migrated PostgreSQL, in every thread."""
    migrate(postgres_url)
    with default_database(postgres_url, django_db_blocker, migrated=True):
        yield


@pytest.fixture
def pgvector(pgvector_url: str, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The same, on a PostgreSQL with pgvector."""
    migrate(pgvector_url)
    with default_database(pgvector_url, django_db_blocker, migrated=True):
        yield


@pytest.fixture
def admin(settings: Settings, db: None) -> Client:
    """A superuser's browser, where providers on this machine are allowed."""
    settings.DEVELOPMENT = True
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client
