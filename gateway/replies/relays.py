"""Streams that are passed on as they are, and what every relay of a stream has for those who drive it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from gateway.errors import GatewayError, StreamInterrupted
from gateway.replies.sse import DONE, EventSplitter, events, payload
from ledger.counting import tokens_of_bytes
from ledger.usage import Usage, read_usage
from providers.targets import Target

REST_SECONDS = 1.0  # how long an upstream may take to end its body after `[DONE]` and keep its connection
REST_BYTES = 65_536
LONG_TOKEN = 8  # bytes; where the mean of a stream's deltas has more, each holds several tokens
# In a JSON string the quotes would be escaped: these bytes are always structure.
USAGE = re.compile(rb'"usage": ?\{')


class Relay(Protocol):
    """One upstream stream on its way to the client, without any I/O; what it gives are whole events."""

    usage: Usage | None
    done: bool  # nothing that comes now belongs to the answer
    failed: GatewayError | None  # the upstream reported an error, which has gone out as the last event
    events_relayed: int
    created: str  # the id that the provider has given the answer, "" where none is known

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes."""
        ...

    def end(self) -> bytes:
        """What is left when the upstream has ended cleanly; raises StreamInterrupted where the answer is not whole."""
        ...

    def estimate(self, tokens_in: int = 0) -> Usage:
        """What has been relayed, where the upstream has not said how much that was."""
        ...


class Source(Protocol):
    """What a stream comes from: a provider's connection, or another request's stream."""

    def pipe(self, sink: Callable[[bytes], bool]) -> None:
        """Offer what comes to `sink` first, where there is a short way."""
        ...

    def aclose(self) -> Coroutine[Any, Any, None]: ...


class Reply(msgspec.Struct):
    """The first upstream that answered: a whole body, or a stream whose first bytes have come."""

    target: Target
    status: int
    content_type: str
    body: bytes = b""  # ready for the client: the whole answer, or what the stream's first bytes gave
    relay: Relay | None = None  # None: `body` is all there is
    upstream: Source | None = None
    chunks: AsyncIterator[bytes] | None = None  # without a relay: they are the client's as they come
    headers: tuple[tuple[str, str], ...] = ()  # the provider's own that go on to the client
    length: str | None = None  # of a body without a relay, where the provider has said it


class PassingRelay:
    """Events pass byte for byte, their names too; only those that hold usage are read.

    https://platform.openai.com/docs/api-reference: speech, transcriptions, images and assistants stream so.
    """

    # A delta's text, whose bytes are counted where the stream brings no usage.
    DELTA = re.compile(rb'"delta": ?"((?:[^"\\]|\\.)+)')

    def __init__(self, *, secrets: tuple[str, ...] = ()) -> None:
        self.usage: Usage | None = None
        self.done = False
        self.failed: GatewayError | None = None
        self.events_relayed = 0
        self.created = ""
        self.secrets = secrets
        self._splitter = EventSplitter(names=True)
        self._deltas = self._delta_bytes = 0

    def feed(self, data: bytes) -> bytes:
        return self._passed(self._splitter.feed(data))

    def end(self) -> bytes:
        rest = self._splitter.flush()
        if rest and not _is_whole(rest):
            raise StreamInterrupted("The provider's stream ended in the middle of an event.", sent=True)
        return self._passed(rest)

    def estimate(self, tokens_in: int = 0) -> Usage:
        single = self._delta_bytes <= self._deltas * LONG_TOKEN
        return Usage(tokens_in, self._deltas if single else tokens_of_bytes(self._delta_bytes))

    def _passed(self, block: bytes) -> bytes:
        if not block:
            return b""
        block = self._read(block)
        self.done = self.done or block.endswith(DONE)
        self.events_relayed += block.count(b"\n\n")
        for text in self.DELTA.findall(block):
            self._deltas += 1
            self._delta_bytes += len(text)
        return block

    def _read(self, block: bytes) -> bytes:
        """Take down what these events tell; what is to go to the client of them."""
        if USAGE.search(block):
            for event in events(block):
                fields = decoded(event) if USAGE.search(event) else None
                if fields is not None:
                    self.usage = read_usage(fields.get("usage")) or self.usage
        return block


def decoded(event: bytes) -> dict[str, object] | None:
    """The JSON object of an event; None where it is none."""
    try:
        value = msgspec.json.decode(payload(event))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_whole(event: bytes) -> bool:
    return event.endswith(DONE) or decoded(event) is not None


async def read_rest(chunks: AsyncIterator[bytes]) -> None:
    """To the end of the body, so that the connection can serve again; not for long and not for much."""
    room = REST_BYTES
    try:
        async with asyncio.timeout(REST_SECONDS):
            async for data in chunks:
                room -= len(data)
                if room < 0:
                    return
    except (GatewayError, TimeoutError):
        return
