"""The numbers of one process in a file that its siblings can read: adding to one is a write to memory.

A page outlives `kill -9`, like the journal, and like it is under a lock that tells whether its owner lives. What a dead
owner has counted is added to the archive of the directory, once; its gauges end with it. A sum over the pages and the
archive never goes down, whoever dies.
"""

import fcntl
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from gateway.metrics.families import BY_NAME, Family
from ledger.adoption import lock
from providers.ids import uuid7

MAGIC = b"gwmetr01"
SUFFIX, ARCHIVE, GUARD = ".metrics", "archive.json", "archive.lock"
PAGE_BYTES = 8 * 1024 * 1024
STEP = 256 * 1024
HEAD = 16  # the magic, and how many bytes are in use
SCRATCH = 64  # slots that nobody reads, for series that no longer fit
REMEMBERED = 1000  # names of pages in the archive; a reader that is slow must still know them

Key = tuple[str, ...]  # the family's name and the values of its labels
Series = dict[Key, list[int]]


class Page:
    """`values[page.slot(family, labels)] += 1`. Where no file can be made the numbers are in memory only."""

    def __init__(self, directory: Path | None) -> None:
        self.path: Path | None = None
        self._fd = -1
        self._allocated = PAGE_BYTES
        self._known: dict[Key, int] = {}
        if directory is not None:
            with suppress(OSError):
                self._create(directory)
        if self._fd < 0:
            self._map = mmap.mmap(-1, PAGE_BYTES)
        self.values = memoryview(self._map).cast("q")
        self._map[: len(MAGIC)] = MAGIC
        self._used = HEAD + SCRATCH * 8
        self.values[1] = self._used

    def _create(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / f"{uuid7()}{SUFFIX}"
        fd = lock(path, os.O_CREAT | os.O_EXCL)
        if fd is None:
            return
        try:
            os.ftruncate(fd, PAGE_BYTES)
            self._fd, self._allocated = fd, 0
            if not self._allocate(STEP):
                raise OSError
            self._map = mmap.mmap(fd, PAGE_BYTES)
        except OSError:
            self._fd, self._allocated = -1, PAGE_BYTES
            path.unlink(missing_ok=True)
            os.close(fd)
            return
        self.path = path

    def _allocate(self, end: int) -> bool:
        """Room on the disk for all bytes before `end`: to touch a mapped page that has none would kill the process."""
        while self._allocated < end:
            try:
                if os.pwrite(self._fd, bytes(STEP), self._allocated) != STEP:
                    return False
            except OSError:
                return False
            self._allocated += STEP
        return True

    def slot(self, family: Family, *labels: str) -> int:
        """Where the series begins; in the scratch, which is not read, where the page is full."""
        key = (family.name, *labels)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._add(key, family.slots)
        return found

    def _add(self, key: Key, slots: int) -> int:
        name = msgspec.json.encode(key)
        name += b" " * (-len(name) % 8)
        at = self._used
        end = at + 8 + len(name) + 8 * slots
        if end > PAGE_BYTES or not self._allocate(end):
            return HEAD // 8
        self._map[at : at + 8 + len(name)] = struct.pack("=II", len(name), slots) + name
        self._used = end
        self.values[1] = end  # last: a reader sees whole entries only
        return (at + 8 + len(name)) // 8

    def observe(self, family: Family, start: int, value: int) -> None:
        """Into the histogram that begins at `start`."""
        values, bounds = self.values, family.bounds
        values[start + bisect_left(bounds, value)] += 1
        values[start + len(bounds) + 1] += value

    def series(self) -> Series:
        return dict(parsed(self._map[: self._used]))

    def close(self) -> None:
        """The page is left to the archive."""
        self.values.release()
        self._map.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parsed(data: bytes) -> Iterator[tuple[Key, list[int]]]:
    """The series of a page's bytes; what is no page, or is cut off, has none."""
    if data[: len(MAGIC)] != MAGIC:
        return
    used = min(struct.unpack_from("=q", data, 8)[0], len(data))
    at = HEAD + SCRATCH * 8
    while at + 8 <= used:
        length, slots = struct.unpack_from("=II", data, at)
        end = at + 8 + length + 8 * slots
        if end > used or not slots:
            return
        yield (
            tuple(msgspec.json.decode(data[at + 8 : at + 8 + length], type=list[str])),
            list(struct.unpack_from(f"={slots}q", data, at + 8 + length)),
        )
        at = end


class Archive(msgspec.Struct):
    """What dead owners have counted, and the names of the pages that are in it."""

    merged: list[str] = []
    series: list[tuple[list[str], list[int]]] = []


class Shelf:
    """The directory of all pages of this machine's processes."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory

    def total(self, own: Page) -> Series:
        """All processes' sums: counters of the living and the dead, gauges of the living."""
        total: Series = {}
        add(total, own.series())
        if self.directory is None or own.path is None:
            return total
        # The pages before the archive: one that is merged in between is in the archive's list, and left out here.
        pages = [(path.name, *found) for path in self._pages() if path != own.path and (found := read(path))]
        archive = self._archive()
        merged = set(archive.merged)
        for name, living, series in pages:
            if name not in merged:
                add(total, series if living else lasting(series))
        add(total, {tuple(key): values for key, values in archive.series})
        return total

    def adopt(self) -> int:
        """Add the pages of dead owners to the archive; how many."""
        if self.directory is None or not self.directory.is_dir():
            return 0
        guard = lock(self.directory / GUARD, os.O_CREAT)
        if guard is None:
            return 0
        try:
            return self._adopt()
        finally:
            os.close(guard)

    def _adopt(self) -> int:
        archive, done = self._archive(), list[tuple[Path, int]]()
        before, count = set(archive.merged), 0
        total: Series = {tuple(key): values for key, values in archive.series}
        try:
            for path in self._pages():
                with suppress(OSError):  # gone meanwhile, or not ours to read
                    fd = lock(path, 0)
                    if fd is None:
                        continue
                    done.append((path, fd))
                    if path.name not in before:
                        add(total, lasting(dict(parsed(path.read_bytes()))))
                        archive.merged.append(path.name)
                        count += 1
            if count:
                archive.merged = archive.merged[-REMEMBERED:]
                archive.series = [(list(key), values) for key, values in total.items()]
                self._put(archive)
            for path, _ in done:
                path.unlink(missing_ok=True)
        finally:
            for _, fd in done:
                os.close(fd)
        return count

    def _put(self, archive: Archive) -> None:
        assert self.directory is not None
        unfinished = self.directory / f"{ARCHIVE}.new"
        with unfinished.open("wb") as file:
            file.write(msgspec.json.encode(archive))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.directory / ARCHIVE)

    def _archive(self) -> Archive:
        assert self.directory is not None
        try:
            return msgspec.json.decode((self.directory / ARCHIVE).read_bytes(), type=Archive)
        except (OSError, msgspec.MsgspecError):
            return Archive()

    def _pages(self) -> list[Path]:
        assert self.directory is not None
        return sorted(self.directory.glob(f"*{SUFFIX}"))


def read(path: Path) -> tuple[bool, Series] | None:
    """Whether the page's owner lives, and its series; None where it is gone."""
    try:
        with path.open("rb") as file:
            series = dict(parsed(file.read(_used(file.fileno()))))
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True, series
            return False, series
    except OSError:
        return None


def _used(fd: int) -> int:
    head = os.pread(fd, HEAD, 0)
    return min(max(0, struct.unpack_from("=q", head, 8)[0]), PAGE_BYTES) if len(head) == HEAD else 0


def lasting(series: Mapping[Key, list[int]]) -> Series:
    """Without the gauges, which say what is now."""
    gauges = {family.name for family in BY_NAME.values() if family.kind == "gauge"}
    return {key: values for key, values in series.items() if key[0] not in gauges}


def add(total: Series, series: Mapping[Key, list[int]]) -> None:
    """Slot by slot; what a version before had with other bounds or labels is left out."""
    for key, values in series.items():
        family = BY_NAME.get(key[0])
        if family is None or len(values) != family.slots or len(key) != len(family.labels) + 1:
            continue
        known = total.get(key)
        if known is None:
            total[key] = list(values)
        elif family.across == "max":
            known[0] = max(known[0], values[0])
        else:
            for place, value in enumerate(values):
                known[place] += value
