"""What a process knows of the pauses between its requests, in which it may lie frozen for any time."""

import time
from collections.abc import Callable

STALE = 1.0  # seconds that a look at the database is good for


class Pauses:
    """Wall time only: the monotonic clock may stand still in a frozen environment."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._busy = 0
        self._ended: float | None = None
        self._looked: float | None = None

    @property
    def resting(self) -> bool:
        """Whether a pause is under way; never where nobody says that there are pauses."""
        return self._busy == 0 and self._ended is not None

    def begin(self) -> float:
        """A request begins: how many seconds the pause before it has lasted, 0 where there was none."""
        pause = abs(self._wall() - self._ended) if self.resting and self._ended is not None else 0.0
        self._busy += 1
        return pause

    def end(self) -> None:
        """A request is over; with the last of them the pause begins."""
        self._busy = max(0, self._busy - 1)  # one that failed before it began is ended too
        self._ended = self._wall()

    def looked(self) -> None:
        """The database is being looked at now, whatever comes of it."""
        self._looked = self._wall()

    def stale(self) -> bool:
        return self._looked is None or abs(self._wall() - self._looked) > STALE
