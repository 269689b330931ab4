"""The one thread on which all SQL of the gateway's process runs, one job after the other, on one connection."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import structlog
from django.db import Error, close_old_connections, connection, connections

from gateway.errors import Overloaded

log = structlog.get_logger("gateway")

T = TypeVar("T")

BETWEEN_COMMITS = 0.005  # four SQLite writers: p99 of a commit 11 ms with this pause, 107 ms without
# Seconds for which a request may wait for its turn and the answer. SQLite's lock is another process's commit, and soon
# over.
PATIENCE = {"sqlite": 5.5}
# Seconds without an answer after which the connection is cut. The kernel does that only where nobody acknowledges, and
# a server may do it though it has stopped, or a proxy though the server behind it is gone.
HUNG = 10.0


class SqlThread:
    """`hung` in seconds; 0 where the connection is never cut, since SQLite has its own limit of time."""

    def __init__(self, *, hung: float = HUNG) -> None:
        self.patience = PATIENCE.get(connection.vendor, 1.9)
        self._hung = hung if connection.vendor == "postgresql" else 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gateway-sql")
        self._heard_at: float | None = None  # while a job runs: when it began, or had its last answer
        self._connection: Any = None

    async def run(self, job: Callable[..., T], *args: object) -> T:
        """Run one job, its connection checked before and after."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._with_connection, job, *args)

    async def run_soon(self, job: Callable[..., T], *args: object) -> T:
        """The same for a request, which waits for so long and no longer. Raises Overloaded."""
        try:
            async with asyncio.timeout(self.patience):
                return await self.run(job, *args)
        except Exception as error:
            known = isinstance(error, TimeoutError | Error)
            name = getattr(job, "__name__", "")
            log.warning("database_unavailable", job=name, error=type(error).__name__, exc_info=not known)
            raise Overloaded("The database does not answer now.", code="database_unavailable", retry_after=5) from None

    def tick(self) -> None:
        """Called each 250 ms: cut the connection whose answer has not come, so that the next job makes a new one."""
        heard_at = self._heard_at
        if not self._hung or heard_at is None or time.monotonic() - heard_at < self._hung:
            return
        self._heard_at = None
        log.warning("database_connection_cut", seconds=self._hung)
        # It may be closed, or not be made yet, which has a limit of time of its own.
        with suppress(Error, OSError, AttributeError):
            wire = socket.socket(fileno=os.dup(self._connection.connection.fileno()))
            wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def shutdown(self) -> None:
        self._pool.shutdown()

    def keep_connection(self) -> None:
        """This thread's connection lasts; those of the pages do not, since a thread of theirs may never come again."""
        connection.settings_dict = {**connection.settings_dict, "CONN_MAX_AGE": None}
        self._connection = connections["default"]
        if self._hung:
            connection.execute_wrappers.append(self._hear)

    def _hear(self, execute: Callable[..., Any], *statement: Any) -> Any:
        self._heard_at = time.monotonic()
        result = execute(*statement)
        self._heard_at = time.monotonic()
        return result

    def _with_connection(self, job: Callable[..., T], *args: object) -> T:
        self._heard_at = time.monotonic()
        # Django does this at its request signals, which the gateway's handler skips; without it a dead connection
        # stays.
        close_old_connections()
        try:
            return job(*args)
        finally:
            if connection.errors_occurred and connection.vendor == "sqlite":
                # The failed statement hangs on its error's traceback, which holds itself. Collected on the loop's
                # thread, it would wait there for the connection's mutex, until this thread's next statement has its
                # lock.
                gc.collect()
            close_old_connections()
            self._heard_at = None


def paced(job: Callable[..., T], *args: object) -> T:
    """A job that writes, and the pause after it."""
    try:
        return job(*args)
    finally:
        time.sleep(BETWEEN_COMMITS)


def close_connections() -> None:
    connections.close_all()
