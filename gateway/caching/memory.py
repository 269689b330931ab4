"""The newest answers of one process: least recently used ones go first, and all of them before a request is refused."""

from collections import OrderedDict

from gateway.caching.kept import Kept
from gateway.errors import Overloaded
from gateway.process import Memory


class MemoryStore:
    """At most `capacity` bytes, which stand on the process's memory account."""

    def __init__(self, account: Memory, capacity: int) -> None:
        self.account = account
        self.capacity = capacity
        self.held = 0
        self._answers: OrderedDict[bytes, Kept] = OrderedDict()
        account.reclaim = self.give_up

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, name: bytes) -> Kept | None:
        kept = self._answers.get(name)
        if kept is not None:
            self._answers.move_to_end(name)
        return kept

    def put(self, name: bytes, kept: Kept) -> None:
        """Keep it, where there is room; what is larger than a quarter of all of it would drive out too much."""
        self.drop(name)
        if kept.size > self.capacity // 4:
            return
        while self.held + kept.size > self.capacity:
            self._drop_oldest()
        try:
            # Where the account is full this drives out older answers first, and no request.
            self.account.take(kept.size)
        except Overloaded:
            return
        self.held += kept.size
        self._answers[name] = kept

    def drop(self, name: bytes) -> None:
        kept = self._answers.pop(name, None)
        if kept is not None:
            self._give(kept.size)

    def give_up(self, wanted: int) -> None:
        """Called by the account when a request would find no room."""
        end = self.held - wanted
        while self._answers and self.held > end:
            self._drop_oldest()

    def clear(self) -> None:
        self.give_up(self.held)

    def _drop_oldest(self) -> None:
        _, kept = self._answers.popitem(last=False)
        self._give(kept.size)

    def _give(self, size: int) -> None:
        self.held -= size
        self.account.give(size)
