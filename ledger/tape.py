"""One journal file as it is read: lines from a position in memory, handed on in batches (no ORM)."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from ledger.entries import Entry, Opened, Settled

READ_BYTES = 1_048_576
REJECTED = "rejected.jsonl"

Reject = Callable[[Settled, Exception], None]
# Makes rows of the entries, or raises and has made none or some: the same entries then come again. An entry that can
# never become a row goes to the second argument.
Store = Callable[[Sequence[Settled], Reject], object]

log = structlog.get_logger("ledger")
decode: Callable[[bytes], Entry] = msgspec.json.Decoder(Entry).decode
encode = msgspec.json.Encoder().encode


class Tape:
    """A reader of one file. `opened` holds the lines of the requests that are admitted and not yet settled, by id."""

    def __init__(self, fd: int, path: Path, *, ended: bool) -> None:
        self.fd = fd
        self.path = path
        self.position = 0
        self.opened: dict[str, bytes] = {}
        self._ended = ended  # nobody writes to it any more, so that a last line without a newline is all there is
        self._complained = False

    def take(self, limit: int, store: Store) -> int:
        """Handle up to `limit` lines; returns how many. The position moves only when `store` has returned."""
        lines, end = self._lines(limit)
        opened: dict[str, bytes] = {}
        settled: list[Settled] = []
        for line in lines:
            entry = self._entry(line)
            if isinstance(entry, Settled):
                settled.append(entry)
            elif entry is not None:
                opened[entry.id] = line
        if settled:
            store(settled, self.reject)
        self.opened.update(opened)
        for entry in settled:
            self.opened.pop(entry.id, None)
        self.position = end
        return len(lines)

    def lose(self, limit: int, store: Store) -> int:
        """Make up to `limit` of the requests that were never settled into rows of outcome `lost`."""
        ids = list(self.opened)[:limit]
        store([lost(decode(self.opened[request_id])) for request_id in ids], self.reject)
        for request_id in ids:
            del self.opened[request_id]
        return len(ids)

    def move_to(self, fd: int, position: int) -> None:
        """The same lines go on in another file, which begins with those of `opened`."""
        self.fd = fd
        self.position = position

    def reject(self, entry: Settled, error: Exception) -> None:
        """Put aside an entry that the database will never take. The log has no text of `error`: it may hold values."""
        path = self.path.parent / REJECTED
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, encode(entry) + b"\n")
        finally:
            os.close(fd)
        log.error("entry_rejected", request_id=entry.id, error=type(error).__name__, kept_in=str(path))

    def _lines(self, limit: int) -> tuple[list[bytes], int]:
        chunk = os.pread(self.fd, READ_BYTES, self.position)
        lines = chunk.split(b"\n", limit)
        rest = lines.pop()
        if rest and not lines and (self._ended or len(chunk) == READ_BYTES):
            return [rest], self.position + len(rest)
        return lines, self.position + len(chunk) - len(rest)

    def _entry(self, line: bytes) -> Entry | None:
        if not line:
            return None
        try:
            return decode(line)
        except (ValueError, RecursionError):  # msgspec's errors, and UnicodeDecodeError
            if not self._complained:
                self._complained = True
                log.warning("journal_line_skipped", file=self.path.name, why="torn, or not of this format")
            return None


def lost(opened: Opened) -> Settled:
    """The account of a request whose process died: nobody knows how far it came, so it is charged all that it could."""
    known = {name: getattr(opened, name) for name in Opened.__struct_fields__}
    source = "" if opened.reserved is None else "reservation"
    return Settled(**known, outcome="lost", status=0, sent=True, cost=opened.reserved, price_source=source)
