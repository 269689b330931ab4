"""The file of one process: what is appended, what becomes a row, what is left when it is closed."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from ledger import journal as journal_module
from ledger.entries import Entry, Opened, Settled
from ledger.journal import LINE_BYTES, Journal, JournalError
from tests.ledger.rows import Rows


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def journal(tmp_path: Path, rows: Rows) -> Journal:
    return Journal(tmp_path / "journal", store=rows)


def lines(journal: Journal) -> list[bytes]:
    return journal.path.read_bytes().splitlines()


def opened(name: str) -> Opened:
    return Opened(name, 1_700_000_000.5, "k1", "web", "chat/completions", "fast", "fast", True)


def settled(name: str) -> Settled:
    return Settled(
        name, 1_700_000_000.5, "k1", "web", "chat/completions", "fast", "fast", True, outcome="ok", status=200
    )


def test_each_entry_is_one_line_of_json(journal: Journal) -> None:
    journal.append(Opened("r1", 1.5, key="k1"))
    journal.append(Settled("r1", 1.5, key="k1", outcome="ok", status=200))
    assert journal.path.read_bytes() == (
        b'{"t":"open","id":"r1","at":1.5,"key":"k1"}\n'
        b'{"t":"done","id":"r1","at":1.5,"key":"k1","outcome":"ok","status":200}\n'
    )


def test_only_its_owner_may_read_the_file_and_its_directory(journal: Journal) -> None:
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.path.parent.stat().st_mode & 0o777 == 0o700


def test_a_request_becomes_a_row_when_it_is_settled_and_not_before(journal: Journal, rows: Rows) -> None:
    journal.append(opened("r1"))
    journal.append(opened("r2"))
    journal.append(settled("r2"))
    assert journal.drain() == 3
    assert rows.entries == [settled("r2")]
    journal.append(settled("r1"))
    assert journal.drain() == 1
    assert rows.ids == ["r2", "r1"]


def test_drain_handles_at_most_its_limit_of_lines_and_goes_on_there(journal: Journal, rows: Rows) -> None:
    for number in range(7):
        journal.append(settled(f"r{number}"))
    assert [journal.drain(3) for _ in range(4)] == [3, 3, 1, 0]
    assert rows.ids == [f"r{number}" for number in range(7)]


def test_pending_is_the_bytes_that_are_not_yet_rows(journal: Journal) -> None:
    assert journal.pending == 0
    journal.append(settled("r1"))
    assert journal.pending == journal.path.stat().st_size
    journal.drain()
    assert journal.pending == 0


def test_while_the_database_is_away_the_position_stays_and_it_is_said_once(journal: Journal, rows: Rows) -> None:
    journal.append(settled("r1"))
    rows.away = True
    with capture_logs() as logs:
        assert [journal.drain(), journal.drain()] == [0, 0]
    assert [(entry["event"], entry["error"]) for entry in logs] == [("journal_not_drained", "ConnectionError")]
    assert journal.pending == journal.path.stat().st_size
    rows.away = False
    assert journal.drain() == 1
    assert rows.ids == ["r1"]


def test_a_full_disk_fails_at_once_and_the_next_line_is_whole(
    journal: Journal, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    room = 60

    def full(fd: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(fd, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalError, match="No space left on device"):
        journal.append(opened("r1"))
    with pytest.raises(JournalError, match="No space left on device"):
        journal.append(opened("r2"))
    assert journal.path.stat().st_size == 60
    room = 1_000_000
    journal.append(settled("r3"))
    assert [len(line) for line in lines(journal)] == [60, len(msgspec.json.encode(settled("r3")))]
    assert journal.drain() == 2
    assert rows.ids == ["r3"]


def test_a_short_write_is_closed_with_a_newline(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:5]))
    with pytest.raises(JournalError, match="a line did not fit"):
        journal.append(opened("r1"))
    assert journal.path.read_bytes() == b'{"t":\n'


def test_a_line_that_lacks_only_its_newline_counts(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:-1]))
        journal.append(opened("r1"))
    journal.append(opened("r2"))
    assert [msgspec.json.decode(line)["id"] for line in lines(journal)] == ["r1", "r2"]


def test_an_account_that_found_no_room_is_written_by_a_later_drain(
    journal: Journal, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    journal.append(opened("r1"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(journal_module, "HELD_LINES", 2)
        for name in ("r1", "r2", "r3"):
            with pytest.raises(JournalError):
                journal.append(settled(name))
        assert journal.drain() == 1
        assert rows.ids == []
        assert journal.pending > 0
    assert journal.drain() == 2
    assert rows.ids == ["r1", "r2"]
    assert journal.pending == 0


def test_a_file_size_limit_of_the_process_is_a_journal_error_too(tmp_path: Path) -> None:
    program = (
        "import pathlib, resource, signal, sys\n"
        "from ledger.entries import Opened\n"
        "from ledger.journal import Journal, JournalError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "journal.append(Opened('a' * 40, 1.0))\n"
        "for _ in range(2):\n"
        "    try:\n"
        "        journal.append(Opened('b' * 40, 1.0))\n"
        "    except JournalError as error:\n"
        "        print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, resource.RLIM_INFINITY))\n"
        "journal.append(Opened('c' * 40, 1.0))\n"
        "print([line[18:19] for line in journal.path.read_text().splitlines()])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "the journal cannot be written: File too large",
        "the journal cannot be written: File too large",
        "['a', 'b', 'c']",
    ]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize(
    "entry",
    [
        Opened("r1", 1.0, model="gpt\ud800\0"),
        Opened("r1", 1.0, model="m" * 10_000_000),
        Settled("r1", 1.0, model="m", attempts=[{"error": "\udfff" * 100_000, "status": 10**400}] * 1000),
        Settled("r1", 1.0, model="m", attempts=[{"error": object()}]),
    ],
    ids=["lone surrogate", "ten megabytes", "attempts", "no JSON"],
)
def test_whatever_a_client_calls_its_model_the_line_is_written_and_short(journal: Journal, entry: Entry) -> None:
    journal.append(entry)
    (line,) = lines(journal)
    assert len(line) < LINE_BYTES
    assert msgspec.json.decode(line)["id"] == "r1"
    assert journal.drain() == 1


def test_a_torn_line_is_skipped_and_said_once(journal: Journal, rows: Rows) -> None:
    with journal.path.open("ab") as file:
        file.write(b'{"t":"done","id":"torn\n\xff\xfe\n{"t":"other"}\n' + b'{"x":' * 5000 + b"\n\n")
    journal._size += journal.path.stat().st_size
    journal.append(settled("r1"))
    with capture_logs() as logs:
        assert journal.drain() == 6
    assert [entry["event"] for entry in logs] == ["journal_line_skipped"]
    assert rows.ids == ["r1"]


def test_a_large_drained_file_makes_way_for_a_small_one_that_keeps_the_open_requests(
    tmp_path: Path, rows: Rows
) -> None:
    journal = Journal(tmp_path, store=rows, rotate_bytes=2000)
    journal.append(opened("still-open"))
    for number in range(20):
        journal.append(settled(f"r{number}"))
    assert journal.path.stat().st_size > 2000
    assert journal.drain(15) == 15
    assert [msgspec.json.decode(line)["id"] for line in lines(journal)] == [
        "still-open",
        *(f"r{number}" for number in range(14, 20)),
    ]
    assert list(tmp_path.iterdir()) == [journal.path]
    assert journal.path.stat().st_mode & 0o777 == 0o600
    assert journal.drain() == 6
    journal.append(settled("still-open"))
    assert journal.drain() == 1
    assert rows.ids == [*(f"r{number}" for number in range(20)), "still-open"]
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_without_room_for_a_new_file_the_old_one_goes_on(
    tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, store=rows, rotate_bytes=100)
    journal.append(opened("r1"))
    inode = journal.path.stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: 1)
        assert journal.drain() == 1
    assert list(tmp_path.iterdir()) == [journal.path]
    assert journal.path.stat().st_ino == inode
    journal.append(settled("r1"))
    assert journal.drain() == 1
    assert rows.ids == ["r1"]
    assert journal.path.stat().st_ino != inode


def test_nothing_is_lost_or_doubled_while_one_thread_appends_and_one_drains_and_rotates(
    tmp_path: Path, rows: Rows
) -> None:
    journal = Journal(tmp_path, store=rows, rotate_bytes=5000)
    inodes = set()
    done = threading.Event()

    def drain() -> None:
        while not done.is_set() or journal.pending:
            journal.drain(50)
            inodes.add(journal.path.stat().st_ino)

    thread = threading.Thread(target=drain)
    thread.start()
    for number in range(5000):
        journal.append(opened(f"r{number}"))
        journal.append(settled(f"r{number}"))
    done.set()
    thread.join(timeout=30)
    assert rows.ids == [f"r{number}" for number in range(5000)]
    assert len(inodes) > 1
    journal.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["an open request", "an undrained line", "nothing"])
def test_close_removes_the_file_only_where_nothing_is_left_in_it(journal: Journal, left: str) -> None:
    journal.append(opened("r1"))
    journal.drain()
    if left != "an open request":
        journal.append(settled("r1"))
    if left == "nothing":
        journal.drain()
    journal.close()
    journal.close()
    assert journal.path.exists() == (left != "nothing")
    with pytest.raises(JournalError):
        journal.append(opened("r2"))
    assert (journal.drain(), journal.adopt()) == (0, 0)


# The child only appends; Python 3.12 warns of any fork beside a thread.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_cannot_write_into_its_parents_file(journal: Journal) -> None:
    child = os.fork()
    if child == 0:
        try:
            journal.append(opened("child"))
        except JournalError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    journal.append(opened("parent"))
    assert [msgspec.json.decode(line)["id"] for line in lines(journal)] == ["parent"]


def test_a_directory_that_cannot_be_made_is_a_journal_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(JournalError, match=r"Not a directory|File exists"):
        Journal(tmp_path / "file" / "journal")
