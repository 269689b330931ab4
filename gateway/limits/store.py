"""The statements with which processes limit together; all of it runs on the process's SQL thread.

A process never counts against the database, it takes a grant: of what may pass it gets a part that it must use within
GRANT_SECONDS. One UPDATE does that, so that no two processes are given the same.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from django.db import connection, transaction

from gateway.limits.gcra import EPSILON, Rate
from gateway.limits.statements import texts

GRANT_SECONDS = 0.25  # after which a grant is worth nothing
PULSE_EXPIRES = 10.0  # seconds
PRUNE_ROWS = 1000
KEY_ID_CHARS = 1000  # as many as the column has
FORGET = 3600.0  # seconds after which a dead process's row is deleted


class Want(msgspec.Struct, frozen=True):
    """`need` units at least, for the request that waits."""

    bucket: str
    rate: Rate
    need: float


class PlaceWant(msgspec.Struct, frozen=True):
    bucket: str
    limit: int
    need: int
    spare: int  # places more, where that many are free


class Batch(msgspec.Struct):
    """What a process wants to know and has to tell, in one transaction."""

    wants: dict[str, Want] = msgspec.field(default_factory=dict)
    corrections: dict[str, float] = msgspec.field(default_factory=dict)  # seconds by which `tat` moves
    places: dict[str, PlaceWant] = msgspec.field(default_factory=dict)
    returns: dict[str, int] = msgspec.field(default_factory=dict)  # places held from now on

    def __bool__(self) -> bool:
        return bool(self.wants or self.corrections or self.places or self.returns)


class Granted(msgspec.Struct, frozen=True):
    """`amount` 0: refused. `debt`: seconds until the bucket is full. `at`: the process's clock before the statement."""

    amount: float
    debt: float
    at: float


class Answer(msgspec.Struct):
    grants: dict[str, Granted] = msgspec.field(default_factory=dict)
    places: dict[str, int] = msgspec.field(default_factory=dict)  # given in addition to those held


def kept_burst(rate: Rate) -> float:
    """What of the burst is kept in the database: a grant may be used GRANT_SECONDS after it was taken."""
    return max(1.0, rate.burst - GRANT_SECONDS / rate.interval)


def step(rate: Rate) -> float:
    """Units that the rate allows in the life of a grant."""
    return GRANT_SECONDS / rate.interval


@cache
def machine() -> tuple[str, Callable[[], float]]:
    """A clock that all processes of this machine share, and its name: another one after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip(), time.monotonic
    except OSError:
        return "wall", time.time


class Store:
    """`key_ids`: of the encryption keys that this process has. `clock` replaces the database's, in tests."""

    def __init__(self, process: str, clock: Callable[[], float] | None = None, *, key_ids: Iterable[str] = ()) -> None:
        self.process = process
        self.key_ids = ",".join(key_ids)[:KEY_ID_CHARS]
        self.clock = clock or time.monotonic
        self.fixed = clock

    # --- grants and corrections --------------------------------------------------------------------------------------

    def answer(self, batch: Batch, processes: int) -> Answer:
        """Everything in one transaction; rows in the order of their names, so that no two processes wait in a ring."""
        answer = Answer()
        with transaction.atomic():
            for bucket in sorted({*batch.wants, *batch.corrections}):
                if bucket in batch.corrections:
                    self._correct(bucket, batch.corrections[bucket])
                if bucket in batch.wants:
                    answer.grants[bucket] = self._grant(batch.wants[bucket], processes)
            for bucket in sorted({*batch.places, *batch.returns}):
                if bucket in batch.returns:
                    self._hold(bucket, batch.returns[bucket])
                if bucket in batch.places:
                    answer.places[bucket] = self._place(batch.places[bucket])
        return answer

    def _grant(self, want: Want, processes: int) -> Granted:
        at, values = self.clock(), self._now()
        kept = kept_burst(want.rate)
        values |= {
            "bucket": want.bucket,
            "interval": want.rate.interval,
            "tolerance": kept * want.rate.interval + EPSILON,
            "need": min(want.need, kept),
            "step": step(want.rate),
            "share": 2.0 * processes,
        }
        for _ in range(2):
            if rows := self._ask("grant", values):
                return Granted(float(rows[0][0]), float(rows[0][1]), at)
            self._tell("make", values)
        raise RuntimeError(f"the bucket {want.bucket} was deleted twice")

    def _correct(self, bucket: str, seconds: float) -> None:
        values = {**self._now(), "bucket": bucket, "seconds": seconds}
        if seconds > 0:
            self._tell("make", values)
        self._tell("correct", values)

    def put(self, debts: Mapping[str, float], held: Mapping[str, int]) -> None:
        """What a process has counted alone so far becomes everyone's."""
        with transaction.atomic():
            for bucket in sorted(debts):
                values = {**self._now(), "bucket": bucket, "debt": debts[bucket]}
                self._tell("make", values)
                self._tell("put", values)
            for bucket in sorted(held):
                self._hold(bucket, held[bucket])

    def debts(self) -> dict[str, float]:
        """Seconds until each bucket is full, of those that are not."""
        return {bucket: float(debt) for bucket, debt in self._ask("debts", self._now())}

    def prune(self) -> None:
        """Buckets that are full, and processes that are long dead, need no row."""
        with transaction.atomic():
            self._tell("prune", {**self._now(), "rows": PRUNE_ROWS})
            self._tell("forget", {**self._now(), "forget": FORGET})
            self._tell("unplace", {})

    # --- places ------------------------------------------------------------------------------------------------------

    def _place(self, want: PlaceWant) -> int:
        values = {**self._now(), "bucket": want.bucket, "process": self.process}
        if self._text("lock"):
            self._ask("lock", values)
        held = {process: int(count) for process, count in self._ask("held", values)}
        given = max(0, min(want.limit - sum(held.values()), want.need + want.spare))
        if given:
            self._hold(want.bucket, held.get(self.process, 0) + given)
        return given

    def _hold(self, bucket: str, count: int) -> None:
        place = f"{bucket}|{self.process}"
        values = {"id": place, "bucket": bucket, "process": self.process, "held": count}
        self._tell("hold" if count > 0 else "drop", values)

    # --- the processes -----------------------------------------------------------------------------------------------

    def beat(self, mode: str) -> dict[str, str]:
        """Show that this process lives; returns the others that do, each with its mode."""
        values = {**self._now(), "process": self.process, "mode": mode, "key_ids": self.key_ids}
        with transaction.atomic():
            self._tell("beat", values)
            return dict(self._ask("others", values))

    def modes(self) -> dict[str, str]:
        """The other processes that live, each with where it counts."""
        return dict(self._ask("others", {**self._now(), "process": self.process}))

    def living(self) -> dict[str, frozenset[str]]:
        """Every process that lives, with the ids of its encryption keys."""
        return {process: frozenset(ids.split(",")) for process, ids in self._ask("living", self._now())}

    def empty(self) -> None:
        """Hold no place."""
        self._tell("leave_places", {"process": self.process})

    def leave(self) -> None:
        with transaction.atomic():
            self.empty()
            self._tell("leave", {"process": self.process})

    def _tell(self, name: str, values: dict[str, Any]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(self._text(name), values)

    def _ask(self, name: str, values: dict[str, Any]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(self._text(name), values)
            rows: list[Any] = cursor.fetchall()
            return rows

    # --- the clock ---------------------------------------------------------------------------------------------------

    def _now(self) -> dict[str, Any]:
        if self.fixed is not None:
            return {"clock": "fixed", "now": self.fixed(), "expires": PULSE_EXPIRES}
        if connection.vendor == "postgresql":
            return {"clock": "server", "expires": PULSE_EXPIRES}
        name, clock = machine()
        return {"clock": name, "now": clock(), "expires": PULSE_EXPIRES}

    def _text(self, name: str) -> str:
        vendor = connection.vendor
        return texts(vendor, server_time=vendor == "postgresql" and self.fixed is None)[name]
