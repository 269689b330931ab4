"""Migrated databases without the seconds that migrations take: copies of one that this run has migrated once."""

import atexit
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.proxysite.commands import manage, production

SQLITE = "sqlite:///"


def migrate(url: str) -> None:
    """The absent SQLite file or the empty PostgreSQL database at `url` is a migrated one."""
    if url.startswith(SQLITE):
        shutil.copyfile(_sqlite(), url.removeprefix(SQLITE))
    else:
        _copy_postgres(url)


@cache
def _sqlite() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gateway-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _run(folder)
    return folder / "gateway.sqlite3"


def _run(folder: Path, **values: str) -> None:
    done, _ = manage(folder, "migrate", "-v", "0", **production(**values))
    assert done.returncode == 0, done.stderr


def _copy_postgres(url: str) -> None:
    server, name = urlsplit(url)._replace(path="/postgres").geturl(), urlsplit(url).path[1:]
    template = _postgres(server)
    _execute(server, "DROP DATABASE {}", name)
    _execute(server, "CREATE DATABASE {} TEMPLATE {}", name, template)


@cache
def _postgres(server: str) -> str:
    """The name of the template on that server, which is migrated once in a process of the run."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-migrated-"))
    name = folder.name.replace("-", "_").lower()
    _execute(server, "CREATE DATABASE {}", name)
    atexit.register(_execute, server, "DROP DATABASE {} WITH (FORCE)", name)
    _run(folder, DATABASE_URL=urlsplit(server)._replace(path=f"/{name}").geturl())
    shutil.rmtree(folder)
    return name


def _execute(server: str, statement: LiteralString, *names: str) -> None:
    # The server may be one of the tests' own, and have ended before the run does.
    with suppress(psycopg.OperationalError), psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
