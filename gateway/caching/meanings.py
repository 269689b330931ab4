"""The questions whose answers are kept, by what they mean: a bounded number for each place where they may be compared.

A place is the digest of all of a request but its last question: scope, alias, model, system prompt, earlier turns and
parameters. With a database the processes share them; each looks for what others have added every few seconds.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from django.apps import apps

from gateway.caching import vectors
from gateway.caching.vectors import Direction, NoVector
from gateway.errors import Overloaded
from gateway.process import Memory

log = structlog.get_logger("gateway")

ENTRIES = 1000  # of one place; the oldest go
CAPACITY = 32 * 1024 * 1024  # bytes in memory, of all places
LOOK_EVERY = 5.0  # seconds
OVERLAP = 60.0  # seconds by which another machine's clock may be behind
PRUNE_EVERY = 60.0
PRUNE_ROWS = 500
WAITING = 1000  # that are not written yet

Run = Callable[..., Awaitable[Any]]


class Place(msgspec.Struct):
    """`known` by the answer's name, in the order in which they came."""

    known: "OrderedDict[bytes, Direction]" = msgspec.field(default_factory=OrderedDict)
    looked_at: float = float("-inf")
    newest: float = 0.0  # unix seconds
    size: int = 0


class Meanings:
    """`run` gives a job to the SQL thread; None where there is no database."""

    def __init__(
        self, account: Memory, run: Run | None, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._account, self._run = account, run
        self._clock, self._wall = clock, wall
        self._places: OrderedDict[bytes, Place] = OrderedDict()
        self._size = 0
        self._waiting: list[tuple[bytes, bytes, bytes, float]] = []  # place, name, vector, when it expires
        self._pruned_at = clock()

    async def nearest(self, place_name: bytes, wanted: Direction) -> tuple[bytes, float] | None:
        """The name of the answer to the most similar question there, and the similarity."""
        place = self._place(place_name)
        if self._run is not None and self._clock() - place.looked_at >= LOOK_EVERY:
            place.looked_at = self._clock()
            try:
                rows = await self._run(_read, place_name.hex(), place.newest - OVERLAP, self._wall())
            except Exception as error:  # without the database the process's own questions are compared
                log.warning("meanings_not_read", error=type(error).__name__)
                rows = []
            for name, data, at in rows:
                place.newest = max(place.newest, at)
                self._learn(place, bytes.fromhex(name), data)
        names = list(place.known)
        found = vectors.nearest(wanted, list(place.known.values()))
        return None if found is None else (names[found[0]], found[1])

    def add(self, place_name: bytes, name: bytes, question: Direction, seconds: float) -> None:
        self._keep(self._place(place_name), name, question)
        if self._run is not None and len(self._waiting) < WAITING:
            self._waiting.append((place_name, name, question.bytes(), self._wall() + seconds))

    def forget(self, place_name: bytes, name: bytes) -> None:
        """Its answer is not there any more."""
        place = self._place(place_name)
        question = place.known.pop(name, None)
        if question is not None:
            self._give(place, _size(question))

    def _place(self, name: bytes) -> Place:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = Place()
        self._places.move_to_end(name)
        return place

    def _learn(self, place: Place, name: bytes, data: bytes) -> None:
        if name not in place.known:
            try:
                self._keep(place, name, vectors.from_bytes(data))
            except NoVector:
                return

    def _keep(self, place: Place, name: bytes, question: Direction) -> None:
        size = _size(question)
        if name in place.known:
            return
        while len(place.known) >= ENTRIES:
            self._give(place, _size(place.known.popitem(last=False)[1]))
        while self._size + size > CAPACITY:
            oldest_name, oldest = next(iter(self._places.items()))
            if oldest is place:
                return
            del self._places[oldest_name]
            self._give(oldest, oldest.size)
        try:
            self._account.take(size)
        except Overloaded:
            return
        place.known[name] = question
        place.size += size
        self._size += size

    def _give(self, place: Place, size: int) -> None:
        place.size -= size
        self._size -= size
        self._account.give(size)

    async def tend(self) -> None:
        """Called four times a second: write what is new, and now and then delete a little of what is over."""
        if self._run is None:
            return
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            await self._run(_write, waiting, self._wall())
        if self._clock() - self._pruned_at >= PRUNE_EVERY:
            self._pruned_at = self._clock()
            await self._run(_prune, self._wall())


def _size(question: Direction) -> int:
    return 5 * len(question.numbers) + 300


def _rows() -> Any:
    """The table. By its name: models stand behind what requests need."""
    return apps.get_model("gateway", "KeptQuestion").objects


def _read(place: str, since: float, now: float) -> list[tuple[str, bytes, float]]:
    rows = _rows().filter(place=place, at__gt=since, expires_at__gt=now).order_by("-at")
    return [(name, bytes(vector), at) for name, vector, at in rows.values_list("answer", "vector", "at")[:ENTRIES]][
        ::-1
    ]


def _write(waiting: list[tuple[bytes, bytes, bytes, float]], now: float) -> None:
    rows = _rows()
    made = [
        rows.model(
            id=f"{place.hex()[:32]}{name.hex()[:32]}",
            place=place.hex(),
            answer=name.hex(),
            vector=vector,
            at=now,
            expires_at=expires,
        )
        for place, name, vector, expires in waiting
    ]
    made.sort(key=lambda row: str(row.id))
    rows.bulk_create(made, update_conflicts=True, unique_fields=["id"], update_fields=["at", "expires_at", "vector"])
    for place in {row.place for row in made}:
        over = rows.filter(place=place).order_by("-at").values_list("pk", flat=True)[ENTRIES : ENTRIES + PRUNE_ROWS]
        rows.filter(pk__in=list(over)).delete()


def _prune(now: float) -> None:
    old = list(_rows().filter(expires_at__lte=now).values_list("pk", flat=True)[:PRUNE_ROWS])
    _rows().filter(pk__in=old).delete()
