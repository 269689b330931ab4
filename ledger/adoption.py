"""The journal files of processes that are gone: whoever gets a file's lock makes its lines into rows and removes it."""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ledger.tape import REJECTED, Store, Tape

BATCH = 500
SUFFIX = ".jsonl"
UNFINISHED = ".new"  # a rotation that was cut off; the file that it was to replace still holds every line


def lock(path: Path, flags: int) -> int | None:
    """Open `path` and lock it: the descriptor, or None where another process has it or it was removed meanwhile.

    The lock is the kernel's (flock): it ends with the process, however that dies. Raises OSError where it cannot open.
    """
    fd = os.open(path, flags | os.O_RDWR | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, another may have adopted and removed it, or its owner put a new file there.
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


class Orphans:
    """The dead owners' files of one directory. It holds at most one of them at a time. Not thread-safe."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory = directory
        self._store = store
        self._tape: Tape | None = None
        self.files = 0  # adopted to the end
        self.lost = 0  # rows of requests that were never settled

    def adopt(self, limit: int | None = None, between: Callable[[], None] | None = None) -> int:
        """Handle the files line by line, all of them or about `limit` lines; returns how many lines.

        A file begun and not finished is gone on with at the next call. `between` is called after each batch. Raises
        what the store raises; the lines not stored are still there.
        """
        handled = 0
        while limit is None or handled < limit:
            if self._tape is None:
                self._tape = self._claim()
            if self._tape is None:
                break
            lines = self._tape.take(BATCH, self._store)
            handled += lines
            if not lines:
                self._finish(self._tape)
            if between is not None:
                between()
        return handled

    def release(self) -> None:
        if self._tape is not None:
            os.close(self._tape.fd)
            self._tape = None

    def left(self) -> int:
        """How many files, of living and of dead owners, are in the directory."""
        return len(self._paths())

    def _paths(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return sorted(path for path in self._directory.glob(f"*{SUFFIX}") if path.name != REJECTED)
        return []

    def _claim(self) -> Tape | None:
        for path in [*self._directory.glob(f"*{UNFINISHED}"), *self._paths()]:
            fd = None
            with suppress(OSError):  # removed meanwhile, or not ours to read
                fd = lock(path, 0)
            if fd is None:
                continue
            if path.suffix == SUFFIX:
                return Tape(fd, path, ended=True)
            path.unlink()
            os.close(fd)
        return None

    def _finish(self, tape: Tape) -> None:
        while tape.opened:
            self.lost += tape.lose(BATCH, self._store)
        tape.path.unlink()
        self.files += 1
        self.release()
