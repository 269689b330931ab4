"""A request's body that is passed on as it comes: a file to be transcribed, kept or changed.

Clients write the form's fields in any order: openai-node sends the file first where its user named it first. What comes
before the model is spooled; from there on the body goes to the provider as the client sends it, and is held back only
as long as another route could still be tried. The bytes are the client's own, but for the model's name.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from gateway.bodies import Incoming
from gateway.multipart import Scanner, boundary_of
from gateway.receipts import Call
from gateway.spool import WINDOW, Spool

MULTIPART = "multipart/form-data"
# What is read of a form; each of them once at most.
WANTED = frozenset({"model", "stream", "n", "user", "response_format"})


class Upload:
    """One body under way. `content_type` is the client's own; `keep`: hold all of it, so that it can be sent again."""

    def __init__(self, call: Call, incoming: Incoming, content_type: str) -> None:
        """Raises BadRequest for a form without a usable boundary."""
        self.content_type = content_type
        self.keep = False
        self.restarts = True  # nothing has been given away that is not held
        self._incoming = incoming
        self._spool = Spool(call, call.process.disk)
        self._scanner: Scanner | None = None
        self._one_reader = asyncio.Lock()
        if content_type.partition(";")[0].strip().lower() == MULTIPART:
            self._scanner = Scanner(boundary_of(content_type), WANTED)
        call.closing = self.close

    @property
    def is_form(self) -> bool:
        return self._scanner is not None

    @property
    def values(self) -> dict[str, bytes]:
        """The fields that have come so far."""
        return self._scanner.values if self._scanner is not None else {}

    @property
    def text_bytes(self) -> int:
        """How much of what has come so far is text."""
        return self._scanner.text_bytes if self._scanner is not None else 0

    async def look(self, *, whole: bool) -> None:
        """Take the body in until its model is known, or the `whole` of it. Raises what reading and scanning do."""
        while not self._incoming.ended and (whole or "model" not in self.values):
            await self._spool.append(await self._next())

    def source(self, model: str | None) -> "Source":
        """The body for one provider, with that model's name where the client's stood."""
        span = self._scanner.spans.get("model") if self._scanner is not None else None
        value = model.encode() if model is not None else b""
        if span is None or model is None or value == self.values["model"]:
            return Source(self, (0, 0), b"")
        return Source(self, span, value)

    def size(self) -> int | None:
        """All bytes of the client's body, None where nobody knows yet."""
        return self._incoming.size if self._incoming.ended else self._incoming.length

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The whole body: first what is held, then what comes. One reader at a time."""
        async with self._one_reader:
            async with aclosing(self._spool.read()) as held:
                async for piece in held:
                    yield piece
            while not self._incoming.ended:
                data = await self._next()
                if self.keep or (self.restarts and self._spool.size + len(data) <= WINDOW):
                    await self._spool.append(data)
                elif self.restarts:
                    self.restarts = False
                    self._spool.close()
                yield data

    async def _next(self) -> bytes:
        data = await self._incoming.read()
        if self._scanner is not None:
            self._scanner.feed(data)
            if self._incoming.ended:
                self._scanner.finish()
        return data

    def close(self) -> None:
        """Give back memory and disk."""
        self._spool.close()


@dataclass(frozen=True, slots=True)
class Source:
    """See gateway.pouring.Source: the upload with the bytes of `span` replaced by `value`."""

    upload: Upload
    span: tuple[int, int]
    value: bytes

    @property
    def length(self) -> int | None:
        size = self.upload.size()
        return None if size is None else size - (self.span[1] - self.span[0]) + len(self.value)

    @property
    def restarts(self) -> bool:
        return self.upload.restarts

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        place, (start, end) = 0, self.span
        async with aclosing(self.upload.pieces()) as pieces:
            async for piece in pieces:
                after = place + len(piece)
                if end == 0 or after <= start or place >= max(end, start + 1):
                    yield piece
                elif place <= start:  # the piece that the span begins in, which may be empty itself
                    yield piece[: start - place] + self.value + piece[end - place :]
                else:
                    yield piece[end - place :]
                place = after
