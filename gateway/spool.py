"""Bodies that must be kept for a while: a small window of memory each, beyond it a file that has no name.

The file is gone with its descriptor, whatever becomes of the process. Its reads and writes are done by threads of their
own, and only for bodies larger than the window whose destination is not known, or could change.
"""

import os
import tempfile
from asyncio import shield, wrap_future
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from gateway.errors import Overloaded

T = TypeVar("T")

WINDOW = 256 * 1024  # bytes of one body in memory
MAX_DISK = 4 * 1024 * 1024 * 1024  # bytes of all bodies of a process in files
THREADS = 2


class Account(Protocol):
    """Who answers for the bytes in memory."""

    def take(self, size: int) -> None:
        """Raises Overloaded."""

    def give(self, size: int) -> None: ...


class Disk:
    """A process's room for such files. `directory` None: wherever the system keeps what is temporary."""

    def __init__(self, directory: Path | None = None, cap: int = MAX_DISK) -> None:
        self.directory = directory
        self.cap = cap
        self.held = 0
        self._threads: ThreadPoolExecutor | None = None

    def take(self, size: int) -> None:
        """Raises Overloaded where the cap would be passed."""
        if self.held + size > self.cap:
            raise _full()
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size

    def open(self) -> FileIO:
        directory = self.directory if self.directory is not None and self.directory.is_dir() else None
        return tempfile.TemporaryFile(dir=directory, buffering=0)

    def submit(self, job: Callable[..., T], *args: Any) -> Future[T]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="spool")
        return self._threads.submit(job, *args)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None


class Spool:
    """The bytes of one body from its beginning on, in order. `append` and `read` may be cancelled and done again."""

    def __init__(self, account: Account, disk: Disk) -> None:
        self.size = 0
        self._account = account
        self._disk = disk
        self._parts: list[bytes] = []  # what is not in the file yet
        self._held = 0  # bytes of them
        self._written = 0  # bytes of the file
        self._reserved = 0  # bytes on the disk's account
        self._file: FileIO | None = None
        self._opening = Lock()
        self._jobs: set[Future[Any]] = set()
        self._closed = False

    async def append(self, data: bytes) -> None:
        """Raises Overloaded where there is no room in memory or on the disk."""
        self._account.take(len(data))
        self._parts.append(data)
        self._held += len(data)
        self.size += len(data)
        if self._held > WINDOW:
            await self._spill()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Everything, from the beginning; nothing may be appended meanwhile."""
        place = 0
        while place < self._written:
            data = await self._run(self._read_at, place, min(WINDOW, self._written - place))
            place += len(data)
            yield data
        for part in self._parts:
            yield part

    def close(self) -> None:
        """Forget everything, at once; a file that is being written to goes as soon as it is not."""
        self._closed = True
        self._account.give(self._held)
        self._disk.give(self._reserved)
        self._parts, self._held, self._reserved = [], 0, 0
        self._close_file()

    async def _spill(self) -> None:
        data = b"".join(self._parts)
        more = self._written + len(data) - self._reserved
        self._disk.take(more)
        self._reserved += more
        try:
            await self._run(self._write_at, self._written, data)
        except OSError:
            raise _full() from None
        # Until here, who is cancelled has changed nothing: the same bytes go to the same place the next time.
        self._written += len(data)
        self._account.give(self._held)
        self._parts, self._held = [], 0

    async def _run(self, job: Callable[..., T], *args: object) -> T:
        future = self._disk.submit(job, *args)
        self._jobs.add(future)
        future.add_done_callback(self._done)
        return await shield(wrap_future(future))

    def _done(self, job: Future[Any]) -> None:
        self._jobs.discard(job)
        if self._closed:
            self._close_file()

    def _close_file(self) -> None:
        # Not while a thread uses its descriptor, which may be another file's in the next moment.
        if self._file is not None and not self._jobs:
            self._file.close()

    def _write_at(self, place: int, data: bytes) -> None:
        with self._opening:  # a job whose caller was cancelled may still run beside the next one
            if self._file is None:
                self._file = self._disk.open()
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, place)
            place, view = place + written, view[written:]

    def _read_at(self, place: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file.fileno(), size, place)


def _full() -> Overloaded:
    return Overloaded("The gateway has no room for another upload now.", code="spool_full", retry_after=5)
