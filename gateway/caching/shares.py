"""What becomes of the answer that a request brings which was not answered from the cache: kept, and shared."""

import re
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec

from gateway.caching import identity, serving
from gateway.caching.flights import Broadcast, Flight, Reader
from gateway.caching.kept import MAX_BODY, PLAIN, STREAM, Kept
from gateway.caching.shelves import Shelf
from gateway.parsing.asks import Ask
from gateway.receipts import Receipt
from gateway.replies.answers import LIST_OF
from gateway.replies.chat import ChatRelay
from gateway.replies.mending import decode_fields
from gateway.replies.mending import decode_list as decode_choices
from gateway.replies.relays import Reply, Source
from ledger import counting
from ledger.usage import Usage
from providers.targets import Target

if TYPE_CHECKING:
    from gateway.caching.batches import Batch

# OpenRouter's word where the model failed after it had begun.
FAILED = re.compile(rb'"finish_reason"\s*:\s*"error"')
UNFINISHED = (b"null", b'""', b'"error"', b"")


class Share:
    """`name` is that of the request at its first target; `stale` what may stand in where every provider fails."""

    def __init__(
        self,
        shelf: Shelf,
        flight: Flight,
        receipt: Receipt,
        ask: Ask,
        first: Target,
        name: bytes,
        stale: Kept | None = None,
        batch: "Batch | None" = None,
        on_kept: Callable[[bytes], None] | None = None,
    ) -> None:
        self.shelf, self.flight, self.receipt = shelf, flight, receipt
        self.ask, self.first, self.name, self.stale, self.batch = ask, first, name, stale, batch
        self.on_kept = on_kept  # called with the name of what is kept
        receipt.give_back.append(self._over)

    def record(
        self, target: Target, first: bytes, upstream: Source, chunks: AsyncIterator[bytes], secrets: tuple[str, ...]
    ) -> tuple[bytes, Source, AsyncIterator[bytes]]:
        """Let others read the stream too; returns what its first reader reads instead of the upstream.

        A stream that begins with an error is none, and comes back as it is.
        """
        ask, process = self.ask, self.receipt.process
        recorder = ChatRelay(
            chat=ask.endpoint == "chat.completions",
            wants_usage=True,
            choices=ask.choices,
            model=ask.model,
            secrets=secrets,
            quirks=target.provider.quirks,
        )
        began = recorder.feed(first)
        if recorder.failed is not None:
            return first, upstream, chunks
        stream = Broadcast(self.flight, upstream, chunks, recorder, process.memory)
        stream.on_end = lambda: self._recorded(stream, target)
        stream.start(began)
        reader = Reader(stream)
        reader.place = stream.next
        self.receipt.give_back.append(reader.close)
        self.flight.began(stream)
        return began, reader, reader.chunks()

    def _recorded(self, stream: Broadcast, target: Target) -> None:
        """A stream is over: keep it where it is whole."""
        if not stream.complete or not stream.keepable:
            return
        body = b"".join(stream.held)
        if FAILED.search(body) is None:
            usage = stream.recorder.usage or stream.recorder.estimate(counting.prompt_tokens(self.ask.fields))
            self._keep(STREAM, target, body, usage)

    def whole(self, target: Target, body: bytes) -> bytes:
        """A whole answer has come; returns what its own client gets."""
        usage = self.receipt.usage or Usage()
        if self.batch is not None:
            return self._embedded(self.batch, target, body, usage)
        if len(body) <= MAX_BODY and is_finished(body, self.ask.endpoint):
            self._keep(PLAIN, target, body, usage)
        else:
            self.flight.arrived(None)
        return body

    def _embedded(self, batch: "Batch", target: Target, body: bytes, usage: Usage) -> bytes:
        cost, _ = self.receipt.bill.cost(target, usage, sent=True)
        whole = batch.completed(target, body, usage, cost)
        told = Usage(usage.tokens_in + batch.tokens)
        self.receipt.saved = batch.saved
        self.flight.arrived(Kept(self.shelf.facts(PLAIN, target, told, cost), whole))
        return whole

    def _keep(self, kind: str, target: Target, body: bytes, usage: Usage) -> None:
        cost, _ = self.receipt.bill.cost(target, usage, sent=True)
        kept = Kept(self.shelf.facts(kind, target, usage, cost), body)
        name = self._name_at(target)
        if name is not None:
            self.shelf.keep(name, kept)
            if self.on_kept is not None:
                self.on_kept(name)
        self.flight.arrived(kept)

    def _name_at(self, target: Target) -> bytes | None:
        """An answer is kept for where it came from: another target's would not be given instead of it."""
        if target.provider is self.first.provider and target.model == self.first.model:
            return self.name
        try:
            return self.shelf.namer(self.ask, target)("answer", identity.request_of(self.ask, target))
        except identity.NotComparable:
            return None

    def instead(self) -> Reply | None:
        """Every provider has failed: what stands in for them, None where nothing does."""
        if self.stale is None:
            return None
        reply = serving.reply(self.stale, self.ask, self.receipt, self.first)
        serving.mark(self.receipt, serving.STALE, age=self.stale.age(self.shelf.wall()))
        self.flight.arrived(self.stale, serving.STALE)
        return reply

    def _over(self) -> None:
        """The request is over; a stream that others read goes on without it."""
        if self.flight.stream is None:
            self.flight.over(self.receipt.error)


def is_finished(body: bytes, endpoint: str) -> bool:
    """Whether every choice of a whole answer says why it ended."""
    try:
        choices = decode_choices(decode_fields(body)[LIST_OF[endpoint]])
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
        return False
    return bool(choices) and all(bytes(choice.get("finish_reason", b"")) not in UNFINISHED for choice in choices)
