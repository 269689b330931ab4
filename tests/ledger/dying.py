"""A process with a journal that is killed from outside (append, drain) or kills itself at a chosen point.

`python -m tests.ledger.dying MODE DIRECTORY`; what is on disk for certain it says on its standard output.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import django

from ledger.adoption import Orphans
from ledger.entries import Opened, Settled
from ledger.journal import Journal, into_sql
from ledger.tape import Reject


def die(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def settle(journal: Journal, name: str) -> None:
    journal.append(Settled(name, 1.0, "k1", outcome="ok", status=200))
    os.write(1, f"settled {name}\n".encode())


def work(journal: Journal, requests: int | None) -> None:
    """Requests one after the other; each is settled after the next one is opened."""
    number = 0
    while requests is None or number < requests:
        name = f"{os.getpid()}-{number}"
        journal.append(Opened(name, 1.0, "k1"))
        os.write(1, f"opened {name}\n".encode())
        if number:
            settle(journal, f"{os.getpid()}-{number - 1}")
        number += 1


def append(directory: Path) -> None:
    work(Journal(directory), None)


def drain(directory: Path) -> None:
    journal = Journal(directory, rotate_bytes=20_000)

    def forever() -> None:
        while True:
            journal.drain(50)

    threading.Thread(target=forever, daemon=True).start()
    work(journal, None)


def commit(directory: Path) -> None:
    """Dies when a batch is committed and the position has not moved."""

    def store(entries: Sequence[Settled], reject: Reject) -> None:
        into_sql(entries, reject)
        die()

    journal = Journal(directory, store=store)
    work(journal, 100)
    journal.drain(50)


def before_rename(directory: Path) -> None:
    journal = Journal(directory, rotate_bytes=100)
    work(journal, 100)
    mock.patch.object(Path, "replace", die).start()
    journal.drain(50)


def after_rename(directory: Path) -> None:
    journal = Journal(directory, rotate_bytes=100)
    work(journal, 100)
    mock.patch.object(os, "close", die).start()
    journal.drain(50)


def adopted_commit(directory: Path) -> None:
    def store(entries: Sequence[Settled], reject: Reject) -> None:
        into_sql(entries, reject)
        die()

    Orphans(directory, store).adopt()


def before_unlink(directory: Path) -> None:
    mock.patch.object(Path, "unlink", die).start()
    Orphans(directory, into_sql).adopt()


MODES: dict[str, Callable[[Path], None]] = {
    mode.__name__: mode for mode in (append, drain, commit, before_rename, after_rename, adopted_commit, before_unlink)
}

if __name__ == "__main__":
    if sys.argv[1] != "append":
        django.setup()
    MODES[sys.argv[1]](Path(sys.argv[2]))
