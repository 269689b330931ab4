"""Equal requests under way: one is sent, and the others are given what it brings while it comes.

The first one leads. It reads its own stream as the others do, from what one task records, so that neither a slow reader
nor its leaving holds anybody up; its row alone has the cost, so it stays until the end where others depend on it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

import structlog

from gateway.caching.kept import MAX_BODY, Kept
from gateway.errors import GatewayError, Overloaded
from gateway.process import Memory
from gateway.receipts import Receipt
from gateway.replies.chat import ChatRelay
from gateway.replies.relays import Source, read_rest

log = structlog.get_logger("gateway")

WINDOW = 256 * 1024  # bytes between the fastest and the slowest reader of a stream that is too large to keep


class Flight:
    """One request that others wait for. `head`: how it goes on is known; `end`: all of it is."""

    def __init__(self, leader: Receipt, forget: Callable[["Flight"], None]) -> None:
        self.leader = leader
        self.head = asyncio.Event()
        self.end = asyncio.Event()
        self.kept: Kept | None = None
        self.state = "hit"  # what its followers are told
        self.stream: Broadcast | None = None
        self.error: GatewayError | None = None
        self.followers = 0
        self._forget = forget
        self._for_itself = leader.call.on_leave  # whether it goes on anyway
        leader.call.on_leave = self.leader_leaves

    def leader_leaves(self) -> bool:
        """Whether its request goes on without its client."""
        goes_on = self._for_itself is not None and self._for_itself()
        if not goes_on and self.followers:
            self.leader.left = goes_on = True
        return goes_on

    def join(self) -> None:
        self.followers += 1

    def leave(self) -> None:
        """A follower is served, or has gone; nobody is left where the leader has gone before."""
        self.followers -= 1
        call = self.leader.call
        if not self.followers and self.leader.left and not self.end.is_set() and call.task is not None:
            call.disconnected = True
            call.task.cancel()

    def began(self, stream: "Broadcast") -> None:
        self.stream = stream
        self.head.set()

    def arrived(self, kept: Kept | None, state: str = "hit") -> None:
        """The answer is whole; None: it came, and cannot be given to others."""
        self.kept, self.state = kept, state
        self.over()

    def over(self, error: GatewayError | None = None) -> None:
        """Whatever became of it, nobody joins any more; may be called again."""
        if not self.end.is_set():
            self.error = error
            self._forget(self)
            self.head.set()
            self.end.set()

    def close_to_newcomers(self) -> None:
        self._forget(self)


class Broadcast:
    """A stream that is recorded by one task and read by any number of readers.

    It holds all of it, to be kept and for who comes later, up to `cap` bytes or what the memory account allows; a
    longer one is held as far as its readers are apart, and the fastest waits for the slowest.
    """

    def __init__(
        self, flight: Flight, upstream: Source, chunks: AsyncIterator[bytes], recorder: ChatRelay, account: Memory
    ) -> None:
        self.flight = flight
        self.cap = MAX_BODY
        self.recorder = recorder
        self.error: GatewayError | None = None
        self.ended = False
        self.complete = False  # with a finish reason, the upstream's own `[DONE]`, and no error
        self.keepable = True  # all of it is held
        self.first = 0  # the place of the oldest chunk that is held
        self.held: deque[bytes] = deque()
        self.size = 0
        self.readers: set[Reader] = set()
        self.on_end: Callable[[], None] = _nothing
        self._upstream = upstream
        self._chunks = chunks
        self._account = account
        self._owed = 0  # bytes on the account, of a stream that is not kept any more
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def next(self) -> int:
        return self.first + len(self.held)

    def start(self, first: bytes) -> None:
        """Publish what the stream began with, and record the rest."""
        if first:
            self._hold(first)
        if self.recorder.done:
            self._end()
        self._task = asyncio.ensure_future(self._record())
        # A task that is cancelled before its first step runs no `finally`.
        self._task.add_done_callback(self._stopped)

    async def _record(self) -> None:
        recorder = self.recorder
        try:
            if not recorder.done:
                async for data in self._chunks:
                    if out := recorder.feed(data):
                        await self._publish(out)
                    if recorder.done or recorder.failed is not None:
                        break
                else:
                    if out := recorder.end():
                        await self._publish(out, whole=False)
            if recorder.done:
                await read_rest(self._chunks)
        except GatewayError as exc:
            self.error = exc

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("recording_failed", exc_info=error)
        self._end()
        self._closing = asyncio.ensure_future(self._upstream.aclose())

    def _end(self, *, whole: bool = True) -> None:
        """Nothing more comes; once. `whole`: the upstream itself has said so."""
        if self.ended:
            return
        recorder = self.recorder
        self.ended = True
        self.complete = whole and recorder.done and recorder.failed is None and recorder.finished
        self._tell()
        try:
            self.on_end()
        finally:
            self.flight.over(self.error)

    async def _publish(self, data: bytes, *, whole: bool = True) -> None:
        while not self.keepable and self.size + len(data) > WINDOW and self.held:
            self._room.clear()
            await self._room.wait()
        self._hold(data)
        self._tell()
        if self.recorder.done:
            self._end(whole=whole)

    def _hold(self, data: bytes) -> None:
        if self.keepable:
            try:
                if self.size + len(data) > self.cap:
                    raise Overloaded("too large to keep")
                self._account.take(len(data))
            except Overloaded:
                self.keepable = False
                self.flight.close_to_newcomers()
                self._owed = self.size
        self.held.append(data)
        self.size += len(data)
        if not self.keepable:
            self.trim()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def news(self) -> None:
        await self._news.wait()

    def trim(self) -> None:
        """Let go of what every reader has passed; nothing, while it is to be kept."""
        if self.keepable:
            return
        oldest = min((reader.place for reader in self.readers), default=self.next)
        while self.held and self.first < oldest:
            part = len(self.held.popleft())
            self.first += 1
            self.size -= part
            self._give(min(part, self._owed))
        self._room.set()

    def leave(self, reader: "Reader") -> None:
        self.readers.discard(reader)
        self.trim()
        if self.readers:
            return
        if not self.ended and self._task is not None:
            self._task.cancel()
        if self.keepable:
            self.keepable = False
            self._owed = self.size
        self._give(self._owed)
        self.held.clear()
        self.size = 0

    def _give(self, size: int) -> None:
        self._owed -= size
        self._account.give(size)


class Reader:
    """One request's way through a broadcast; closing it is leaving, and the last one closes the upstream."""

    def __init__(self, stream: Broadcast, on_leave: Callable[[], None] | None = None) -> None:
        self.stream = stream
        self.place = stream.first
        self._on_leave = on_leave
        stream.readers.add(self)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What is there, then what comes; raises the GatewayError with which the stream broke off."""
        stream = self.stream
        while True:
            if self.place < stream.next:
                parts = [stream.held[index - stream.first] for index in range(self.place, stream.next)]
                self.place = stream.next
                stream.trim()
                yield parts[0] if len(parts) == 1 else b"".join(parts)
            elif not stream.ended:
                await stream.news()
            elif stream.error is not None:
                raise stream.error
            else:
                return

    def pipe(self, sink: Callable[[bytes], bool]) -> None:
        """There is no short way: what comes is for several readers."""

    def close(self) -> None:
        """May be called again."""
        if self in self.stream.readers:
            self.stream.leave(self)
            if self._on_leave is not None:
                self._on_leave()

    async def aclose(self) -> None:
        self.close()


def _nothing() -> None:
    pass
