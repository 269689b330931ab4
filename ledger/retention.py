"""Old rows out of SQL, a few at a time, so that nobody waits for it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from ledger.journal import PAUSE
from ledger.models import DailyRollup, UsageRecord

BATCH = 500


def prune(before: datetime, *, rollups: bool = False) -> Iterator[int]:
    """Delete the usage rows that began before that; how many in each batch. Daily totals stay, unless asked for.

    Budgets keep what was spent, and a row that is gone is not made again: its journal line was drained long ago.
    """
    yield from _batches(UsageRecord.objects.filter(started_at__lt=before))
    if rollups:
        yield from _batches(DailyRollup.objects.filter(day__lt=before.astimezone(UTC).date()))


def _batches(rows: QuerySet[Any]) -> Iterator[int]:
    while True:
        ids = list(rows.order_by().values_list("pk", flat=True)[:BATCH])
        if not ids:
            return
        with transaction.atomic():
            rows.model._base_manager.filter(pk__in=ids).delete()
        yield len(ids)
        time.sleep(PAUSE)
