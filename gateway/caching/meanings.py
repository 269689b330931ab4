"""The questions whose answers are kept, by what they mean: a bounded number for each place where they may be compared.

A place is the digest of all of a request but its last question: scope, alias, model, system prompt, earlier turns and
parameters. With a database the processes share them: PostgreSQL with pgvector compares them itself
(gateway/caching/pgvector.py), from any other one each process reads every few seconds what others have added.
"""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from django.apps import apps

from gateway.caching import vectors
from gateway.caching.vectors import Direction, NoVector
from gateway.errors import Overloaded
from gateway.process import Memory

if TYPE_CHECKING:
    from gateway.caching.pgvector import Column

log = structlog.get_logger("gateway")

ENTRIES = 1000  # of one place; the oldest go
CAPACITY = 32 * 1024 * 1024  # bytes in memory, of all places
LOOK_EVERY = 5.0  # seconds
OVERLAP = 60.0  # seconds by which another machine's clock may be behind
PRUNE_EVERY = 60.0
PRUNE_ROWS = 500
WAITING = 1000  # that are not written yet
NEAREST = 4  # that are looked for: the answer of the first may be gone, or lie in another process

Run = Callable[..., Awaitable[Any]]


class Place(msgspec.Struct):
    """`known` by the answer's name, in the order in which they came."""

    known: "OrderedDict[bytes, Direction]" = msgspec.field(default_factory=OrderedDict)
    looked_at: float = float("-inf")
    newest: float = 0.0  # unix seconds
    size: int = 0


class Meanings:
    """`run` gives a job to the SQL thread; None where there is no database. `column` is there on PostgreSQL only."""

    def __init__(
        self,
        account: Memory,
        run: Run | None,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        column: "Column | None" = None,
    ) -> None:
        self._account, self._run = account, run
        self._clock, self._wall = clock, wall
        self._column = column
        self._places: OrderedDict[bytes, Place] = OrderedDict()
        self._size = 0
        self._waiting: dict[tuple[bytes, bytes], tuple[Direction, float]] = {}  # place, name: when it expires
        self._pruned_at = clock()

    @property
    def compared_by(self) -> str:
        return "pgvector" if self._column is not None and self._column.compares else "gateway"

    async def nearest(self, place_name: bytes, wanted: Direction) -> list[tuple[bytes, float]]:
        """The names of the answers to the most similar questions there, and the similarity; the most similar first."""
        among = None
        if self._column is not None:
            among = await self._column.nearest(place_name, wanted, self._wall(), NEAREST)
        if among is not None:
            # What the database does not have yet.
            among += [(name, one) for (at, name), (one, _) in self._waiting.items() if at == place_name]
        else:
            place = self._place(place_name)
            if self._run is not None and (self._column is None or not self._column.resting):
                await self._look(self._run, place_name, place)
            among = list(place.known.items())
        found = vectors.nearest(wanted, [one for _, one in among], NEAREST)
        return [(among[at][0], similarity) for at, similarity in found]

    async def _look(self, run: Run, place_name: bytes, place: Place) -> None:
        if self._clock() - place.looked_at < LOOK_EVERY:
            return
        place.looked_at = self._clock()
        try:
            rows = await run(_read, place_name.hex(), place.newest - OVERLAP, self._wall())
        except Exception as error:  # without the database the process's own questions are compared
            log.warning("meanings_not_read", error=type(error).__name__)
            rows = []
        for name, data, at in rows:
            place.newest = max(place.newest, at)
            self._learn(place, bytes.fromhex(name), data)

    def add(self, place_name: bytes, name: bytes, question: Direction, seconds: float) -> None:
        self._keep(self._place(place_name), name, question)
        if self._run is not None and len(self._waiting) < WAITING:
            self._waiting[place_name, name] = question, self._wall() + seconds

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
        waiting = dict(self._waiting)
        if waiting:
            await self._run(_write, waiting, self._wall())
        due = self._clock() - self._pruned_at >= PRUNE_EVERY
        if self._column is not None and (waiting or due or not self._column.compares):
            await self._column.fill()
        for key, value in waiting.items():
            if self._waiting.get(key) is value:
                del self._waiting[key]
        if due:
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


def _write(waiting: dict[tuple[bytes, bytes], tuple[Direction, float]], now: float) -> None:
    rows = _rows()
    made = [
        rows.model(
            id=f"{place.hex()[:32]}{name.hex()[:32]}",
            place=place.hex(),
            answer=name.hex(),
            vector=question.bytes(),
            at=now,
            expires_at=expires,
        )
        for (place, name), (question, expires) in waiting.items()
    ]
    made.sort(key=lambda row: str(row.id))
    rows.bulk_create(made, update_conflicts=True, unique_fields=["id"], update_fields=["at", "expires_at", "vector"])
    for place in {row.place for row in made}:
        over = rows.filter(place=place).order_by("-at").values_list("pk", flat=True)[ENTRIES : ENTRIES + PRUNE_ROWS]
        rows.filter(pk__in=list(over)).delete()


def _prune(now: float) -> None:
    old = list(_rows().filter(expires_at__lte=now).values_list("pk", flat=True)[:PRUNE_ROWS])
    _rows().filter(pk__in=old).delete()
