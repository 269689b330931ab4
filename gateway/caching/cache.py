"""The step of admission that may answer a request without a provider: a kept answer, or one that is under way."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog

from gateway.caching import identity, serving, wishes
from gateway.caching.flights import Flight, Reader
from gateway.caching.identity import Namer, NotComparable
from gateway.caching.kept import Kept
from gateway.caching.memory import MemoryStore
from gateway.caching.semantic import Semantic, question_of
from gateway.caching.shares import Share
from gateway.caching.shelves import SharedStore, Shelf
from gateway.errors import UpstreamError
from gateway.parsing.asks import Ask, Form
from gateway.process import Memory
from gateway.receipts import Receipt
from gateway.replies.chat import ChatRelay
from gateway.replies.relays import Reply
from gateway.routing.breakers import Unavailable
from gateway.spending import OUTPUT_CAP, budgets_of
from providers.snapshot import Catalog
from providers.targets import AliasCard, KeyCard, Target

log = structlog.get_logger("gateway")

FOLLOWED = 2  # requests under way that one waits for in vain before it goes its own way


class Found(msgspec.Struct, frozen=True):
    """`reply` is the answer; without one `ask` is what is still to be asked, and `share` takes what comes of it."""

    ask: Ask
    reply: Reply | None = None
    share: Share | None = None


class Cache:
    """The cache of one process."""

    def __init__(
        self,
        account: Memory,
        capacity: int,
        shared: SharedStore | None = None,
        semantic: Semantic | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.memory = MemoryStore(account, capacity)
        self.shared = shared
        self.wall = wall
        self.flights: dict[bytes, Flight] = {}
        self.semantic = semantic

    @property
    def compared_by(self) -> str:
        """Who looks for questions that mean the same: `pgvector`, or the `gateway` itself."""
        return self.semantic.meanings.compared_by if self.semantic is not None else "gateway"

    async def look(
        self, ask: Ask, alias: AliasCard, key: KeyCard, targets: tuple[Target, ...], receipt: Receipt, config: Catalog
    ) -> Found:
        """Called for aliases that keep answers, after the request itself was let pass and before it costs anything."""
        if ask.form is not Form.COMPLETION:
            return Found(ask)
        wish = wishes.wish(ask, alias, key, receipt.call.header(b"cache-control"))
        if wish is not None:
            shelf = Shelf(self.memory, self.shared, self.wall, alias, key, config, wish, receipt.call.forwarded)
            step = self._embeddings if ask.endpoint == "embeddings" else self._answer
            # What a budget will bound the answer to is a part of what is sent.
            sent = ask.bounded(OUTPUT_CAP) if budgets_of(key, config) else ask
            try:
                return await step(ask, sent, _first(targets, receipt), shelf, receipt)
            except NotComparable:
                pass
        serving.mark(receipt, serving.BYPASS)
        return Found(ask)

    async def peek(
        self, ask: Ask, alias: AliasCard, key: KeyCard, target: Target, receipt: Receipt, config: Catalog
    ) -> dict[str, str]:
        """What `look` would find for one answer, and its name; nothing is counted, and nobody is waited for."""
        wish = wishes.wish(ask, alias, key, receipt.call.header(b"cache-control"))
        if wish is None or ask.form is not Form.COMPLETION:
            return {"state": serving.BYPASS}
        if ask.endpoint == "embeddings":
            return {"state": "item by item"}
        shelf = Shelf(self.memory, self.shared, self.wall, alias, key, config, wish, receipt.call.forwarded)
        sent = ask.bounded(OUTPUT_CAP) if budgets_of(key, config) else ask
        try:
            name = shelf.namer(sent, target)("answer", identity.request_of(sent, target))
        except NotComparable:
            return {"state": serving.BYPASS}
        kept = await shelf.find(name) if wish.read else None
        fresh = kept is not None and shelf.is_fresh(kept)
        return {"state": "hit" if fresh else "miss" if kept is None else "stale", "key": name.hex()}

    async def _answer(self, ask: Ask, sent: Ask, target: Target, shelf: Shelf, receipt: Receipt) -> Found:
        values = identity.request_of(sent, target)
        namer = shelf.namer(sent, target)
        name, stale = namer("answer", values), None
        if shelf.wish.read:
            kept = await shelf.find(name)
            if kept is not None and shelf.is_fresh(kept):
                if (reply := self._serve(name, kept, ask, receipt, target)) is not None:
                    return Found(ask, reply)
            elif shelf.wish.stale:
                stale = kept
            if (reply := await self._follow(name, ask, receipt, target)) is not None:
                return Found(ask, reply)
        reply = None
        serving.mark(receipt, serving.MISS)
        share = Share(shelf, self._lead(name, receipt), receipt, sent, target, name, stale)
        assert shelf.alias.cache is not None
        if shelf.alias.cache.semantic and self.semantic is not None:
            reply = await self._alike(self.semantic, namer, values, ask, share)
        return Found(ask, reply, share)

    async def _alike(
        self, semantic: Semantic, namer: Namer, values: dict[str, Any], ask: Ask, share: Share
    ) -> Reply | None:
        """The answer to a question that means the same; else the answer to this one will be found by its meaning."""
        question = question_of(values)
        if question is None:
            return None
        shelf, receipt = share.shelf, share.receipt
        asked = await semantic.asked(namer, question, shelf, receipt)
        if asked is None:
            return None
        if shelf.wish.read and (found := await semantic.find(asked, shelf)) is not None:
            kept, distance = found
            reply = self._serve(share.name, kept, ask, receipt, share.first)
            if reply is not None:
                serving.mark(receipt, serving.HIT, age=kept.age(self.wall()), distance=distance)
                share.flight.arrived(kept)
                return reply
        share.on_kept = lambda name: semantic.meanings.add(asked.place, name, asked.meaning, shelf.kept_for)
        return None

    async def _embeddings(self, ask: Ask, sent: Ask, target: Target, shelf: Shelf, receipt: Receipt) -> Found:
        # Embeddings alone are kept item by item.
        from gateway.caching.batches import Batch

        batch = Batch(shelf, sent, target)
        name = shelf.namer(sent, target)("answer", *batch.whole_name)
        if shelf.wish.read:
            await batch.find()
            if not batch.missing:
                reply = self._serve(name, batch.from_kept(), ask, receipt, target)
                if reply is not None:
                    return Found(ask, reply)
                batch.found.clear()
            if (reply := await self._follow(name, ask, receipt, target)) is not None:
                return Found(ask, reply)
        serving.mark(receipt, serving.MISS)
        kept = sum(name in batch.found for name in batch.names)
        if kept:
            receipt.call.headers.append((b"x-gateway-cache-items", b"%d/%d" % (kept, len(batch.items))))
        share = Share(shelf, self._lead(name, receipt), receipt, sent, target, name, batch=batch)
        return Found(batch.to_ask(), share=share)

    async def tend(self) -> None:
        """Called four times a second: what is not urgent, off every request's way."""
        if self.shared is not None:
            await self.shared.tend()
        if self.semantic is not None:
            await self.semantic.meanings.tend()

    async def close(self) -> None:
        self.memory.clear()
        if self.shared is not None:
            await self.shared.close()

    def _serve(
        self, name: bytes, kept: Kept, ask: Ask, receipt: Receipt, target: Target, state: str = serving.HIT
    ) -> Reply | None:
        try:
            reply = serving.reply(kept, ask, receipt, target)
        except Exception as error:  # whatever is wrong with what is kept, the provider has the answer
            log.warning("kept_answer_unusable", error=type(error).__name__)
            self.memory.drop(name)
            return None
        serving.mark(receipt, state, age=kept.age(self.wall()))
        return reply

    # --- equal requests under way ------------------------------------------------------------------------------------

    def _lead(self, name: bytes, receipt: Receipt) -> Flight:
        def forget(flight: Flight) -> None:
            if self.flights.get(name) is flight:
                del self.flights[name]

        flight = Flight(receipt, forget)
        self.flights[name] = flight
        return flight

    async def _follow(self, name: bytes, ask: Ask, receipt: Receipt, target: Target) -> Reply | None:
        """What an equal request brings; None where there is none, or where it fails: then the first who notices leads.

        Raises the provider's error where two have failed of it.
        """
        error = None
        for _ in range(FOLLOWED):
            flight = self.flights.get(name)
            if flight is None:
                return None
            flight.join()
            reading = False
            try:
                await flight.head.wait()
                if ask.stream and flight.stream is not None and flight.stream.keepable:
                    reading = True
                    return self._read_along(flight, ask, receipt, target)
                await flight.end.wait()
                if flight.kept is not None:
                    reply = self._serve(name, flight.kept, ask, receipt, target, flight.state)
                    if reply is not None:
                        return reply
            finally:
                if not reading:
                    flight.leave()
            error = flight.error
        if isinstance(error, UpstreamError):
            raise error
        return None

    def _read_along(self, flight: Flight, ask: Ask, receipt: Receipt, target: Target) -> Reply:
        assert flight.stream is not None
        reader = Reader(flight.stream, flight.leave)
        receipt.total_deadline = flight.leader.total_deadline
        receipt.give_back += [partial(_note_saving, receipt, flight), reader.close]
        serving.mark(receipt, serving.HIT, age=0)
        relay = ChatRelay(chat=ask.endpoint == "chat.completions", wants_usage=ask.wants_usage, model=ask.model)
        led = flight.leader.attempts[-1].target if flight.leader.attempts else target
        place = serving.stand_in(receipt, led.model, led)
        return Reply(place, 200, serving.EVENT_STREAM, b"", relay, reader, reader.chunks())


def _note_saving(receipt: Receipt, flight: Flight) -> None:
    """What the request would have cost: by the prices that its leader was admitted with."""
    leader = flight.leader
    if receipt.usage is not None and leader.attempts:
        receipt.saved, _ = leader.bill.cost(leader.attempts[-1].target, receipt.usage, sent=True)


def _first(targets: Sequence[Target], receipt: Receipt) -> Target:
    """The one that would be asked: what is out of order is passed over there too."""
    breakers = receipt.process.breakers
    try:
        return (breakers.usable(targets) if breakers.open else targets)[0]
    except Unavailable:
        return targets[0]
