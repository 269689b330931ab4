"""Client keys under a new pepper: each use moves its key; what is not used until the deadline is refused from then on.

Only the token itself can be digested anew, and it is held nowhere: the gateway sees it when it is used.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

import msgspec
from django.db.models import Q, QuerySet
from django.utils import timezone

from providers import audit, keys, peppers
from providers.models import ClientKey


class Status(msgspec.Struct, frozen=True):
    """Live keys by pepper, and those that are not under the pepper for writing yet."""

    counts: Counter[str]
    left: tuple[ClientKey, ...]


def move(row: ClientKey, token: str) -> None:
    """Digest the token, which is that row's, under the pepper for writing.

    Only a key with a deadline is moved: while a new order of the peppers is being rolled out, processes do not agree
    on which is for writing, and would move it to and fro.
    """
    pepper_id, pepper = peppers.primary()
    if row.pepper_id == pepper_id or row.pepper_deadline is None or row.pepper_deadline <= timezone.now():
        return
    # With the old digest as condition: who rotates or deletes the key meanwhile wins.
    ClientKey.objects.filter(pk=row.pk, pepper_id=row.pepper_id, digest=row.digest).update(
        pepper_id=pepper_id, digest=keys.digest(pepper, token), pepper_deadline=None
    )


def status() -> Status:
    """Dead keys do not count: nobody uses them, and so nothing could move them."""
    rows = live().order_by("pepper_id", "name", "id")
    return Status(
        Counter(rows.values_list("pepper_id", flat=True)), tuple(rows.exclude(pepper_id=peppers.primary()[0]))
    )


def set_deadline(at: datetime) -> int:
    """Let the keys that are left expire then; those that have a deadline keep it. Gives how many were given one."""
    pks = list(_left().filter(pepper_deadline=None).values_list("pk", flat=True))
    for batch in _batches(pks):
        _left().filter(pk__in=batch, pepper_deadline=None).update(pepper_deadline=at)
        audit.note(ClientKey, batch, using="default", reason=f"old pepper, until {at:%Y-%m-%d %H:%M} UTC")
    return len(pks)


def live() -> QuerySet[ClientKey]:
    """The keys that a request could come with."""
    now = timezone.now()
    alive = Q(expires_at=None) | Q(expires_at__gt=now), Q(pepper_deadline=None) | Q(pepper_deadline__gt=now)
    return ClientKey.objects.filter(*alive, enabled=True)


def _left() -> QuerySet[ClientKey]:
    return live().exclude(pepper_id=peppers.primary()[0])


def _batches(pks: list[str]) -> Iterable[list[str]]:
    return (pks[start : start + audit.BATCH] for start in range(0, len(pks), audit.BATCH))
