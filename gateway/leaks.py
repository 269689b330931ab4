"""Reports of leaked keys: the key is flagged and the operator told; whoever reports learns nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from django.db import transaction
from django.utils import timezone
from django_ratelimit.core import get_usage

from gateway.wrongkeys import constant
from ledger.models import Alert
from providers import audit, keys
from providers.models import ClientKey

log = structlog.get_logger("gateway")

RATE = "10/15m"
MAX_WAITING = 50  # reports that are looked into later; beyond it one is as good as not made

_under_way: set["asyncio.Task[None]"] = set()


def count(address: str) -> int:
    """Count a report, on the SQL thread; the seconds for which none is taken from that address, 0 where it is."""
    usage = get_usage(None, group="key-report", key=constant(address), rate=RATE, increment=True)
    return max(1, int(usage["time_left"])) if usage and usage["should_limit"] else 0


def look_into(token: str, sql: Callable[..., Awaitable[Any]]) -> None:
    """Later, so that the time which the answer takes says nothing."""
    if len(_under_way) < MAX_WAITING:
        task = asyncio.create_task(_flag(token, sql))
        _under_way.add(task)
        task.add_done_callback(_under_way.discard)


async def _flag(token: str, sql: Callable[..., Awaitable[Any]]) -> None:
    try:
        await sql(flag, token)
    except Exception:
        log.exception("key_report_failed")


def flag(token: str) -> None:
    """Mark a secret key that somebody holds who should not; a publishable one is made to be seen."""
    if isinstance(keys.parse(token), keys.Malformed):
        return
    row = ClientKey.objects.with_token(token)
    if row is None or row.kind != ClientKey.SECRET:
        return
    with audit.acting("report of a leak"), transaction.atomic():
        if not row.reported_at:
            ClientKey.objects.filter(pk=row.pk, reported_at=None).update(reported_at=timezone.now())
        text = f"The key {row.name} ({row.id}) has been reported as leaked: replace it, with --compromised if it is"
        alert = Alert(id=f"reported:{row.id}", kind="key_reported", text=text, facts={"key": row.id, "name": row.name})
        Alert.objects.bulk_create([alert], ignore_conflicts=True)
    log.warning("key_reported", key=row.id)
