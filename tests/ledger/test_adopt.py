"""Whatever kills a process, its requests are rows: each once, and those that it never settled as `lost`."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import psycopg
import pytest

from ledger.adoption import Orphans
from ledger.entries import Opened, Settled
from ledger.journal import Journal
from tests.ledger.rows import Rows

ROOT = Path(__file__).parents[2]


class Site:
    """A data directory and a database, and processes that have both."""

    def __init__(self, data: Path, database_url: str) -> None:
        self.directory = data / "journal"
        self.url = database_url
        self.environment = os.environ | {
            "GATEWAY_DATA_DIR": str(data),
            "DATABASE_URL": database_url,
            "DJANGO_DEBUG": "1",
            "DJANGO_SETTINGS_MODULE": "proxysite.settings",
        }

    def start(self, mode: str, said: Path) -> "subprocess.Popen[bytes]":
        with said.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.ledger.dying", mode, str(self.directory)],
                cwd=ROOT,
                env=self.environment,
                stdout=file,
            )

    def kill_after(self, lines: int, mode: str, said: Path) -> None:
        """Start a process that never ends, and kill it somewhere after it has said `lines` lines."""
        process = self.start(mode, said)
        try:
            wait_for_lines(said, lines)
        finally:
            process.kill()
            assert process.wait() == -signal.SIGKILL

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def make_table(self) -> None:
        """What `migrate ledger` does, without the seconds that it takes."""
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as lite:
                lite.executescript(schema("sqlite", self))
        else:
            with psycopg.connect(self.url, autocommit=True) as server:
                server.execute(schema("postgres", self).encode())

    def rows(self) -> list[tuple[str, str, bool]]:
        query = "SELECT id, outcome, flagged FROM ledger_usagerecord ORDER BY id"
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as lite:
                found = lite.execute(query).fetchall()
            return [(name, outcome, bool(flagged)) for name, outcome, flagged in found]
        with psycopg.connect(self.url) as server:
            return server.execute(query).fetchall()


SCHEMAS: dict[str, str] = {}


def schema(vendor: str, site: Site) -> str:
    if vendor not in SCHEMAS:
        numbers = sorted(file.name[:4] for file in (ROOT / "ledger" / "migrations").glob("0*.py"))
        SCHEMAS[vendor] = "".join(site.manage("sqlmigrate", "ledger", number) for number in numbers)
    return SCHEMAS[vendor]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    data = tmp_path / "data"
    data.mkdir()
    url = f"sqlite:///{data}/db.sqlite3" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    site = Site(data, url)
    site.make_table()
    return site


def said_names(said: Path, word: str) -> set[str]:
    """The ids that a process had said `word` of before it died; its last line may be torn."""
    whole = said.read_text().splitlines(keepends=True)
    pairs = [line.split() for line in whole if line.endswith("\n")]
    return {name for first, name in pairs if first == word}


def wait_for_lines(said: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while said.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the process does not get on"
        time.sleep(0.002)


def check(rows: list[tuple[str, str, bool]], said: Path) -> None:
    """Of one dead process: no request is missing, and all that it settled are `ok`; at most two were open."""
    opened, settled = said_names(said, "opened"), said_names(said, "settled")
    prefix = next(iter(opened)).partition("-")[0] + "-"
    ours = {name: outcome for name, outcome, _ in rows if name.startswith(prefix)}
    assert opened <= ours.keys()
    assert {ours[name] for name in settled} == {"ok"}
    assert len(ours.keys() - opened) <= 1  # written, and killed before it could be said
    assert len([outcome for outcome in ours.values() if outcome == "lost"]) in (1, 2)
    assert set(ours.values()) == {"ok", "lost"}


def test_processes_killed_while_they_append_and_drain_leave_one_row_a_request(site: Site, tmp_path: Path) -> None:
    said = [tmp_path / f"said{number}" for number in range(4)]
    for number, (mode, path) in enumerate(zip(("append", "drain", "append", "drain"), said, strict=True)):
        site.kill_after(700 * number + 100, mode, path)
    assert len(list(site.directory.glob("*.jsonl"))) == 4
    copies = tmp_path / "copies"
    shutil.copytree(site.directory, copies)

    report = json.loads(site.manage("drain_journal", "--json"))
    rows = site.rows()
    assert (report["files"], report["left"]) == (4, 0)
    assert list(site.directory.iterdir()) == []
    assert len(rows) == len({name for name, _, _ in rows})
    assert report["lost"] == len([name for name, outcome, _ in rows if outcome == "lost"])
    assert all(flagged == (outcome == "lost") for _, outcome, flagged in rows)
    for path in said:
        check(rows, path)

    for time_over in range(5):  # as if each file had been adopted and not removed, five times
        for path in copies.iterdir():
            shutil.copy(path, site.directory / f"{time_over}{path.name}")
    assert json.loads(site.manage("drain_journal", "--json"))["files"] == 20
    assert site.rows() == rows


@pytest.mark.parametrize(
    ("site", "point"),
    [
        ("sqlite", "commit"),
        pytest.param("postgres", "commit", marks=pytest.mark.postgres),
        ("sqlite", "before_rename"),
        ("sqlite", "after_rename"),
    ],
    indirect=["site"],
)
def test_a_process_killed_at_a_bad_moment_of_its_drain(site: Site, tmp_path: Path, point: str) -> None:
    process = site.start(point, tmp_path / "said")
    assert process.wait(timeout=30) == -signal.SIGKILL
    report = json.loads(site.manage("drain_journal", "--json"))
    assert (report["files"], report["lost"], report["left"]) == (1, 1, 0)
    assert list(site.directory.iterdir()) == []
    rows = site.rows()
    check(rows, tmp_path / "said")
    assert len(rows) == 100


@pytest.mark.parametrize(
    ("site", "point"), [("sqlite", "adopted_commit"), ("sqlite", "before_unlink")], indirect=["site"]
)
def test_an_adopter_killed_at_a_bad_moment_is_followed_by_another(site: Site, tmp_path: Path, point: str) -> None:
    site.kill_after(1500, "append", tmp_path / "said")
    adopter = site.start(point, tmp_path / "adopter")
    assert adopter.wait(timeout=30) == -signal.SIGKILL
    assert len(site.rows()) > 100
    assert len(list(site.directory.iterdir())) == 1
    assert "1 journal files adopted" in site.manage("drain_journal")
    assert list(site.directory.iterdir()) == []
    check(site.rows(), tmp_path / "said")


def test_the_files_of_the_living_are_left_alone(tmp_path: Path) -> None:
    rows = Rows()
    living, other = Journal(tmp_path, store=rows), Journal(tmp_path, store=rows)
    living.append(Settled("r1", 1.0))
    assert other.adopt() == 0
    assert living.path.exists()
    assert rows.entries == []
    living.close()
    assert other.adopt() == 1
    assert list(tmp_path.iterdir()) == [other.path]
    assert rows.entries == [Settled("r1", 1.0)]


def test_a_lost_request_keeps_all_that_its_open_line_knew(tmp_path: Path) -> None:
    rows = Rows()
    gone = Journal(tmp_path, store=rows)
    gone.append(Opened("r1", 1.5, "k1", "web", "chat/completions", "fast", "fast-1", True))
    gone.close()
    assert Journal(tmp_path, store=rows).adopt() == 1
    expected = Settled("r1", 1.5, "k1", "web", "chat/completions", "fast", "fast-1", True, outcome="lost", sent=True)
    assert rows.entries == [expected]


def test_adoption_in_steps_goes_on_where_it_stopped_and_waits_for_the_database(tmp_path: Path) -> None:
    rows = Rows()
    gone = Journal(tmp_path, store=rows)
    for number in range(1200):
        gone.append(Settled(f"r{number}", 1.0))
    gone.close()
    journal = Journal(tmp_path, store=rows)
    assert journal.adopt(limit=100) == 500
    rows.away = True
    assert journal.adopt() == 0
    assert gone.path.exists()
    rows.away = False
    assert journal.adopt() == 700
    assert not gone.path.exists()
    assert [entry.id for entry in rows.entries] == [f"r{number}" for number in range(1200)]


def test_a_file_begun_by_a_closed_journal_is_adopted_by_the_next(tmp_path: Path) -> None:
    rows = Rows()
    gone = Journal(tmp_path, store=rows)
    for number in range(600):
        gone.append(Settled(f"r{number}", 1.0))
    gone.close()
    first, second = Journal(tmp_path, store=rows), Journal(tmp_path, store=rows)
    assert first.adopt(limit=1) == 500
    assert second.adopt() == 0
    first.close()
    assert second.adopt() == 600


def test_a_last_line_without_its_newline_counts_where_it_is_whole(tmp_path: Path) -> None:
    rows = Rows()
    line = msgspec.json.encode(Settled("r1", 1.0))
    (tmp_path / "whole.jsonl").write_bytes(line)
    (tmp_path / "torn.jsonl").write_bytes(line[:-3])
    (tmp_path / "garbage.jsonl").write_bytes(b"x" * 2_500_000)
    orphans = Orphans(tmp_path, rows)
    orphans.adopt()
    assert (orphans.files, orphans.lost, orphans.left()) == (3, 0, 0)
    assert rows.entries == [Settled("r1", 1.0)]


def test_what_is_no_file_of_ours_to_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(msgspec.json.encode(Settled("r1", 1.0)))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "kept")
    rows = Rows()
    assert Orphans(tmp_path, rows).adopt() == 0
    assert Orphans(tmp_path / "absent", rows).adopt() == 0
    assert (tmp_path / "kept").exists()
