"""The file that a process writes its requests into, and the way of its lines into rows.

Appending is one write to the page cache (about 3 us), so the event loop may do it; it outlives `kill -9`. All else runs
on the SQL thread. A line may be stored more than once, and a row is made of it once: the request id is unique.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from ledger.adoption import BATCH, SUFFIX, UNFINISHED, Orphans, lock
from ledger.entries import Entry, Settled
from ledger.storable import storable
from ledger.tape import Reject, Store, Tape
from providers.ids import uuid7

DIRECTORY = "journal"  # inside the data directory
LINE_BYTES = 65_536
ROTATE_BYTES = 4_194_304
TAIL_BYTES = 262_144
HELD_LINES = 10_000
PAUSE = 0.005  # seconds between commits: SQLite's other writers get their turn

log = structlog.get_logger("ledger")
encode = msgspec.json.Encoder().encode


class JournalError(Exception):
    """The line is not on disk: no space, no right, a closed journal."""


def into_sql(entries: Sequence[Settled], reject: Reject) -> None:
    """The usual store. It loads the ORM at the first drain, so that a process that only appends needs none."""
    from ledger.drain import store_each

    store_each(entries, reject)


class Journal:
    """One process's own file, under a lock that tells the others that its owner lives.

    Opened after a fork, never before: in a child of its process every append fails. `append` and `pending` are for the
    event loop, the other methods for the SQL thread; both may run at the same time.
    """

    def __init__(self, directory: Path, *, store: Store = into_sql, rotate_bytes: int = ROTATE_BYTES) -> None:
        """Raises JournalError where the file cannot be made."""
        self._store = store
        self._rotate_bytes = rotate_bytes
        self._write_lock = threading.Lock()  # held for a write or a change of files
        self._drain_lock = threading.Lock()
        self._held: list[bytes] = []
        self._torn = False
        self._away = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path, self._fd = _create(directory, SUFFIX)
        except OSError as error:
            raise JournalError(f"no journal can be opened in {directory}: {error.strerror}") from error
        self._size = 0
        self._tape = Tape(self._fd, self.path, ended=False)
        self._orphans = Orphans(directory, store)
        _open_journals.add(self)

    @property
    def pending(self) -> int:
        """Bytes that are appended and not yet rows."""
        return self._size - self._tape.position + sum(map(len, self._held))

    @property
    def away(self) -> bool:
        """Whether the last attempt to make rows failed."""
        return self._away

    def append(self, entry: Entry) -> None:
        """Write one line. Raises JournalError at once where there is no room, and works again once there is.

        A Settled that finds no room is kept in memory besides, and written by a later drain: its request is over, and
        must not end as `lost`.
        """
        try:
            line = encode(entry) + b"\n"
        except (ValueError, TypeError, OverflowError, RecursionError):
            line = b""
        if not line or len(line) > LINE_BYTES:
            line = encode(storable(entry)) + b"\n"
        with self._write_lock:
            try:
                self._write(line)
            except JournalError:
                if isinstance(entry, Settled) and self._fd >= 0 and len(self._held) < HELD_LINES:
                    self._held.append(line)
                raise

    def drain(self, limit: int = BATCH) -> int:
        """Make rows of up to `limit` lines of the own file; returns how many lines were handled.

        Where the database is away this is 0, the position stays, and the next call tries again.
        """
        with self._drain_lock:
            if self._fd < 0:
                return 0
            self._write_held()
            handled = self._attempt(lambda: self._tape.take(limit, self._store))
            self._rotate()
            return handled

    def adopt(self, limit: int | None = None) -> int:
        """Make rows of the files of dead owners and remove them; returns how many lines were handled.

        Requests that were never settled become rows of outcome `lost`. All files are handled, or about `limit` lines,
        and the rest at the next call. Where the database is away the files stay.
        """
        with self._drain_lock:
            if self._fd < 0:
                return 0
            return self._attempt(lambda: self._orphans.adopt(limit, lambda: time.sleep(PAUSE)))

    def close(self) -> None:
        """Give up the file: it is removed if all of it became rows, else the next process adopts it.

        Requests still open in it become `lost` then. May be called again.
        """
        with self._drain_lock, self._write_lock:
            _open_journals.discard(self)
            if self._fd < 0:
                return
            self._flush_held()
            if self._size == self._tape.position and not self._tape.opened and not self._held:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
            self._orphans.release()

    def _write(self, line: bytes) -> None:
        """Needs the write lock. After a short write the rest of the line is given up, and the next begins anew."""
        data = b"\n" + line if self._torn else line
        try:
            written = os.write(self._fd, data)
            self._size += written
            if written:
                self._torn = data[written - 1] != 10
            if written == len(data):
                return
            if self._torn and written == len(data) - 1:
                return  # only the newline is missing, and it comes with the next line
            if self._torn:
                self._size += os.write(self._fd, b"\n")
                self._torn = False
        except OSError as error:
            raise JournalError(f"the journal cannot be written: {error.strerror}") from error
        raise JournalError("the journal cannot be written: a line did not fit")

    def _write_held(self) -> None:
        if self._held:
            with self._write_lock:
                self._flush_held()

    def _flush_held(self) -> None:
        with suppress(JournalError):
            while self._held:
                self._write(self._held[0])
                self._held.pop(0)

    def _attempt(self, job: Callable[[], int]) -> int:
        """What `job` handled; 0 where it failed, said once until something is handled again."""
        try:
            handled = job()
        except Exception as error:
            if not self._away:
                self._away = True
                log.warning("journal_not_drained", error=type(error).__name__, pending_bytes=self.pending)
            return 0
        if handled:
            self._away = False
        return handled

    def _rotate(self) -> None:
        """Once most of a large file is rows, put a new one in its place that holds only what is still needed."""
        if self._size < self._rotate_bytes or self._size - self._tape.position > TAIL_BYTES:
            return
        try:
            path, fd = _create(self.path.parent, UNFINISHED)
        except OSError:
            return  # no room for it now
        with self._write_lock:
            opened = b"".join(line + b"\n" for line in self._tape.opened.values())
            tail = os.pread(self._fd, self._size - self._tape.position, self._tape.position)
            kept = opened + tail
            try:
                if os.write(fd, kept) != len(kept):
                    raise OSError
                # It takes the old one's name: at no moment are there two files, or none.
                path.replace(self.path)
            except OSError:
                path.unlink(missing_ok=True)
                os.close(fd)
                return
            old, self._fd, self._size = self._fd, fd, len(kept)
            self._tape.move_to(fd, len(opened))
        os.close(old)

    def _disown(self) -> None:
        """In a forked child: closing its copy of the descriptor leaves the parent's lock as it is."""
        os.close(self._fd)
        self._fd = -1
        self._write_lock, self._drain_lock = threading.Lock(), threading.Lock()
        self._orphans.release()


def _create(directory: Path, suffix: str) -> tuple[Path, int]:
    """A new file, locked by us before anyone could adopt it: where someone was faster, another new one."""
    while True:
        path = directory / f"{uuid7()}{suffix}"
        fd = lock(path, os.O_APPEND | os.O_CREAT | os.O_EXCL)
        if fd is not None:
            return path, fd


_open_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _disown_all() -> None:
    for journal in list(_open_journals):
        journal._disown()
    _open_journals.clear()


os.register_at_fork(after_in_child=_disown_all)
