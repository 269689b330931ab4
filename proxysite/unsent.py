"""How long a connection may wait for a client that takes nothing of what lies ready for it."""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable

PARTS = 16  # of what lies there at first, of which one has to be taken each time


class Unsent:
    """What lies unsent, once that is much. `give_up` is called where in `seconds` too little of it has been taken.

    Also of a connection that is being closed: a polite close waits without end to write what nobody reads.
    """

    def __init__(self, transport: asyncio.Transport, seconds: float, give_up: Callable[[], None]) -> None:
        self._transport = transport
        self._seconds = seconds
        self._give_up = give_up
        self._timer: TimerHandle | None = None
        self._part = 1  # bytes

    def watch(self) -> None:
        """From the moment in which the transport asks for a pause."""
        self.end()
        size = self._transport.get_write_buffer_size()
        self._part = max(1, size // PARTS)
        self._look_later(size)

    def _look_later(self, size: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look, size)

    def end(self) -> None:
        """Little is left, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, before: int) -> None:
        size = self._transport.get_write_buffer_size()
        if before - size >= self._part:
            self._look_later(size)
        else:
            self._timer = None
            self._give_up()
