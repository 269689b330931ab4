"""Reading the change table: what became visible since the last look, each change once."""

import time
from collections.abc import Callable
from datetime import timedelta

from django.db.models import Max
from django.utils import timezone

from providers.changes import Change, ChangeTarget

REMEMBERED = 60.0  # seconds
KEPT = timedelta(days=1)


class ChangeLog:
    """On PostgreSQL ids are given before a transaction commits, so a lower id may become visible after a higher one.

    Hence ids are remembered for 60 s one by one, and only what is older lies below the horizon. A transaction that was
    open for longer is left to the full reload.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._horizon = 0
        self._seen: dict[int, float] = {}

    def restart(self) -> set[ChangeTarget]:
        """Find the horizon anew, ahead of a full reload; returns what `news` would, and perhaps older changes again."""
        newest = Change.objects.order_by("-id").first()
        self._horizon = 0
        if newest is not None:
            since = newest.at - timedelta(seconds=REMEMBERED)
            self._horizon = Change.objects.filter(at__lt=since, id__lt=newest.id).aggregate(top=Max("id"))["top"] or 0
        top = newest.id if newest else 0
        # A database that was put back to an older state gives the same ids out again.
        self._seen = {number: at for number, at in self._seen.items() if self._horizon < number <= top}
        return self.news()

    def news(self) -> set[ChangeTarget]:
        """The targets of all changes that have become visible since the last call."""
        now = self._monotonic()
        found: set[ChangeTarget] = set()
        rows = Change.objects.filter(id__gt=self._horizon).order_by("id").values_list("id", "kind", "object_id")
        for number, kind, object_id in rows:
            if number not in self._seen:
                self._seen[number] = now
                found.add((kind, object_id))
        old = max((number for number, at in self._seen.items() if now - at > REMEMBERED), default=0)
        if old > self._horizon:
            self._horizon = old
            self._seen = {number: at for number, at in self._seen.items() if number > old}
        return found

    def prune(self) -> None:
        """Delete the changes of more than a day ago; a read only, where there is none."""
        limit = timezone.now() - KEPT
        if Change.objects.filter(at__lt=limit).exists():
            Change.objects.filter(at__lt=limit).delete()
