"""Answers that wait for being written to the shared store: bounded, on the memory account, and given up beyond that."""

from gateway.errors import Overloaded
from gateway.process import Memory

CAPACITY = 16 * 1024 * 1024  # bytes

Entry = tuple[bytes, bytes, float]  # name, frame, seconds


class Pending:
    def __init__(self, account: Memory) -> None:
        self._account = account
        self._entries: dict[bytes, Entry] = {}
        self._size = 0

    def add(self, name: bytes, value: bytes, seconds: float) -> bool:
        """False where there is no room: then the answer is kept in memory alone."""
        if self._size + len(value) > CAPACITY or name in self._entries:
            return False
        try:
            self._account.take(len(value))
        except Overloaded:
            return False
        self._size += len(value)
        self._entries[name] = (name, value, seconds)
        return True

    def take(self, most: int, bytes_: int = CAPACITY) -> list[Entry]:
        """The oldest; they count until they are `written`."""
        batch: list[Entry] = []
        for name in list(self._entries)[:most]:
            entry = self._entries[name]
            bytes_ -= len(entry[1])
            if batch and bytes_ < 0:
                break
            del self._entries[name]
            batch.append(entry)
        return batch

    def written(self, batch: list[Entry]) -> None:
        size = sum(len(value) for _, value, _ in batch)
        self._size -= size
        self._account.give(size)
