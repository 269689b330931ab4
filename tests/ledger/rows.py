"""Where the journal's entries go in tests: a store in memory, and a PostgreSQL in place of SQLite."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ledger.entries import Settled
from ledger.tape import Reject


class Rows:
    """A store in memory; `away` makes it fail as a database does."""

    def __init__(self) -> None:
        self.entries: list[Settled] = []
        self.away = False

    def __call__(self, entries: Sequence[Settled], reject: Reject) -> None:
        if self.away:
            raise ConnectionError
        self.entries += entries

    @property
    def ids(self) -> list[str]:
        return [entry.id for entry in self.entries]


def check_on_postgresql(tests: str, url: str) -> None:
    """Run the file's other tests in a process of its own whose DATABASE_URL names a PostgreSQL database."""
    arguments = ["--noconftest", "-q", "-p", "no:cacheprovider", "-m", "not postgres", tests]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=Path(__file__).parents[2],
        env=environment | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
