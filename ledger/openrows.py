"""Rows of requests that are not over yet, for machines whose disk dies with the process.

The row of outcome `open` is committed before the provider is called; the settled line takes its place, in one
transaction and with all that moves with a new row. One that stays open is made `lost` once no request can be so old.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction

from ledger import drain
from ledger.entries import Opened, Settled
from ledger.models import UsageRecord
from ledger.storable import LENGTHS, storable
from ledger.tape import Reject, lost

OPEN = "open"
OLDEST = timedelta(minutes=20)  # a function runs for 15 minutes at most
BATCH = 200


def commit(entry: Opened) -> None:
    """The row of a request that may now be sent. Raises django.db.Error where it is not there afterwards."""
    known = {name: getattr(entry, name) for name in Opened.__struct_fields__}
    row = storable(Settled(**known, outcome=OPEN, sent=True))
    # One statement, which needs no transaction around it: each would be two more ways to the database and back.
    with connection.cursor() as cursor:
        cursor.execute(drain.insertion(1), drain.parameters(row, drain.moment(row)))
        if cursor.fetchone() is None:  # more has been set aside since
            UsageRecord.objects.filter(pk=row.id, outcome=OPEN).update(reserved=row.reserved)


def store_each(entries: Sequence[Settled], reject: Reject) -> None:
    """As `ledger.drain.store_each`, in place of the rows that are still open."""
    with transaction.atomic():
        ids = [entry.id[: LENGTHS["id"]] for entry in entries]
        UsageRecord.objects.filter(pk__in=ids, outcome=OPEN).delete()
        drain.store_each(entries, reject)


def lose(now: datetime | None = None) -> int:
    """Rows that have been open for longer than any request lasts become `lost`; returns how many."""
    count = 0
    before = (now or datetime.now(UTC)) - OLDEST
    while rows := list(UsageRecord.objects.filter(outcome=OPEN, started_at__lt=before)[:BATCH]):
        store_each([_lost(row) for row in rows], _refuse)
        count += len(rows)
    return count


def _lost(row: UsageRecord) -> Settled:
    """What it had set aside is charged to the accounts that it names; of its lease nothing is left."""
    entry = Opened(
        id=row.id,
        at=row.started_at.timestamp(),
        key=row.key_id,
        key_name=row.key_name,
        endpoint=row.endpoint,
        alias=row.alias,
        model=row.model,
        stream=row.stream,
        team=row.team_id,
        team_name=row.team_name,
        end_user=row.end_user,
        reserved=row.reserved,
        charges=[(account, "", 0) for account in row.accounts],
    )
    return lost(entry)


def _refuse(entry: Settled, error: Exception) -> None:
    raise error
