"""What a process knows of the pauses between its requests, in which it may lie frozen for any time."""

import time
from collections.abc import Callable

STALE = 1.0  # seconds that a look at the database is good for


class Pauses:
    """Wall time, for the monotonic clock may stand still in a frozen environment; `clock` is that, set right."""

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._busy = 0
        self._ended: float | None = None
        self._ended_by_clock = 0.0
        self._missed = 0.0  # seconds of pauses in which the monotonic clock stood still
        self._looked: float | None = None

    def clock(self) -> float:
        """Monotonic seconds that pass in a freeze too: for what is worth nothing, or not refused any more, after it."""
        return self._monotonic() + self._missed

    @property
    def resting(self) -> bool:
        """Whether a pause is under way; never where nobody says that there are pauses."""
        return self._busy == 0 and self._ended is not None

    def begin(self) -> float:
        """A request begins: how many seconds the pause before it has lasted, 0 where there was none."""
        pause = 0.0
        if self.resting and self._ended is not None:
            passed = self._wall() - self._ended
            self._missed += max(0.0, passed - (self.clock() - self._ended_by_clock))
            pause = abs(passed)
        self._busy += 1
        return pause

    def end(self) -> None:
        """A request is over; with the last of them the pause begins."""
        self._busy = max(0, self._busy - 1)  # one that failed before it began is ended too
        self._ended, self._ended_by_clock = self._wall(), self.clock()

    def looked(self) -> None:
        """The database is being looked at now, whatever comes of it."""
        self._looked = self._wall()

    def stale(self) -> bool:
        return self._looked is None or abs(self._wall() - self._looked) > STALE
