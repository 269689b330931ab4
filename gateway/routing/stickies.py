"""Which provider has given which id, and to whom: what is done with the id later has to go there, and for nobody else.

The table is the truth for all processes; what this one has seen lies in memory before it. Nothing of it is asked for a
request that names no id.
"""

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any, NamedTuple

import structlog
from django.utils import timezone

from gateway.errors import Overloaded
from gateway.models import NAME, KnownId

MAX_KEPT = 10_000  # in memory
KEPT_FOR = datetime.timedelta(
    days=400
)  # without a use; providers keep files and vector stores for as long as one likes
PRUNE_EVERY = 3600.0  # seconds
PRUNED = 500  # rows at a time

log = structlog.get_logger("gateway")


class Sticky(NamedTuple):
    """Ids of rows: the provider, its credential ("" for none), and the principal of the client key."""

    provider: str
    credential: str
    owner: str


class Stickies:
    """`sql` runs a job on the SQL thread; without it there is no table, and an id is known to this process only."""

    def __init__(self, sql: Callable[..., Awaitable[Any]] | None = None) -> None:
        self._sql = sql
        self._kept: dict[str, Sticky] = {}
        self._pruned_at = float("-inf")
        self._writing: set[asyncio.Future[None]] = set()

    async def find(self, ids: Collection[str]) -> dict[str, Sticky]:
        """Those of the ids that are known. Raises Overloaded where that cannot be said now: they may be another's."""
        found = {name: self._kept[name] for name in ids if name in self._kept}
        missing = [name for name in ids if name not in found and _can_be_kept(name)]
        if missing and self._sql is not None:
            try:
                read: dict[str, Sticky] = await self._sql(_read, missing)
            except Exception:
                log.exception("ids_not_found")
                raise Overloaded("Ids cannot be looked up now.", code="database_unavailable", retry_after=5) from None
            self._keep(read)
            found.update(read)
        return found

    async def remember(self, ids: Iterable[str], sticky: Sticky) -> None:
        """Whose they are from now on; whoever had one first keeps it. Never raises: the answer is there already."""
        await self._remember(self._fresh(ids), sticky)

    async def _remember(self, fresh: list[str], sticky: Sticky) -> None:
        if not fresh:
            return
        if self._sql is not None:
            now = time.monotonic()
            prune = now - self._pruned_at > PRUNE_EVERY
            if prune:
                self._pruned_at = now
            try:
                self._keep(await self._sql(_write, fresh, sticky, prune))
                return
            except Exception:
                log.exception("ids_not_kept", count=len(fresh))
        self._keep(dict.fromkeys(fresh, sticky))

    def remember_soon(self, ids: Iterable[str], sticky: Sticky) -> None:
        """The same without waiting for the table: this process knows it at once."""
        fresh = self._fresh(ids)
        if fresh:
            task = asyncio.ensure_future(self._remember(fresh, sticky))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
            self._keep(dict.fromkeys(fresh, sticky))

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writing)

    def _fresh(self, ids: Iterable[str]) -> list[str]:
        return [name for name in ids if name not in self._kept and _can_be_kept(name)]

    def _keep(self, found: dict[str, Sticky]) -> None:
        for name, sticky in found.items():
            while len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[name] = sticky


def _can_be_kept(name: str) -> bool:
    return 0 < len(name) <= NAME and "\0" not in name


def _read(ids: list[str]) -> dict[str, Sticky]:
    """What is in use does not grow old, at the price of one write a day."""
    rows = list(KnownId.objects.filter(pk__in=ids))
    today = timezone.now().date()
    if old := [row.id for row in rows if row.used_on < today]:
        KnownId.objects.filter(pk__in=old).update(used_on=today)
    return {row.id: Sticky(row.provider, row.credential, row.owner) for row in rows}


def _write(ids: list[str], sticky: Sticky, prune: bool) -> dict[str, Sticky]:
    """Whose the ids are now: another process may have been there before."""
    today = timezone.now().date()
    rows = [KnownId(id=name, used_on=today, **sticky._asdict()) for name in ids]
    KnownId.objects.bulk_create(rows, ignore_conflicts=True)
    if prune:
        old = KnownId.objects.filter(used_on__lt=today - KEPT_FOR).values_list("pk", flat=True)[:PRUNED]
        KnownId.objects.filter(pk__in=list(old)).delete()
    return _read(ids)
