"""Entries into rows: each request id once, however often its line comes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
from django.db import DataError, connection, transaction

from ledger import alerts, leases, rollups
from ledger.entries import Settled
from ledger.fields import MoneyField
from ledger.models import UsageRecord
from ledger.money import units
from ledger.storable import storable
from ledger.tape import Reject

_FIELDS = UsageRecord._meta.concrete_fields
_COLUMNS = [field.attname for field in _FIELDS]
# Asked of every field, the question what its database value is took a third of the drain's time: what looks different
# there stands at a place known here, all else comes out of the entry in one call.
_ELSEWHERE = {"started_at": "at", "key_id": "key", "team_id": "team", "accounts": "charges", "flagged": "outcome"}
_values = attrgetter(*(_ELSEWHERE.get(column, column) for column in _COLUMNS))
_STARTED, _ATTEMPTS = _COLUMNS.index("started_at"), _COLUMNS.index("attempts")
_ACCOUNTS, _FLAGGED = _COLUMNS.index("accounts"), _COLUMNS.index("flagged")
_AMOUNTS = [place for place, field in enumerate(_FIELDS) if isinstance(field, MoneyField)]

encode = msgspec.json.Encoder().encode

# What an entry's values can cause. All else is the database's: no connection, a full disk, a table that is not there,
# and a broken constraint too, since `storable` keeps within all that the model has.
REFUSED = (DataError, ValueError, TypeError, OverflowError)


def store(entries: Sequence[Settled]) -> list[str]:
    """Insert the rows that are not there yet, in one transaction; returns the ids of those.

    Raises django.db.Error or ValueError, and has stored nothing then. In the caller's own transaction it is a part of
    that. What moves with a row (daily totals, spent money) moves for the returned ids, and so once.
    """
    entries = [storable(entry) for entry in entries]
    times = [moment(entry) for entry in entries]
    rows = [parameters(entry, at) for entry, at in zip(entries, times, strict=True)]
    # SQLite takes a bounded number of parameters a statement.
    step = (connection.features.max_query_params or 65_535) // len(_COLUMNS)
    new: list[str] = []
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            cursor.execute(insertion(len(part)), list(chain.from_iterable(part)))
            new += [request_id for (request_id,) in cursor.fetchall()]
        _move(entries, times, set(new))
    return new


def _move(entries: Sequence[Settled], times: Sequence[datetime], new: set[str]) -> None:
    """Rollups and budgets, for each row that was not there before, in the same transaction: exactly once, therefore."""
    # Of two lines for the same request the first became the row.
    first: dict[str, tuple[Settled, datetime]] = {}
    for entry, at in zip(entries, times, strict=True):
        if entry.id in new:
            first.setdefault(entry.id, (entry, at))
    if first:
        rollups.add(first.values())
        alerts.note(leases.spend(entry for entry, _ in first.values()))


def store_each(entries: Sequence[Settled], reject: Reject) -> list[str]:
    """As `store`, but an entry that the database refuses goes to `reject` and the others become rows.

    Raises what is no entry's fault, such as a database that is away. Some rows may be stored then; the same batch may
    come again.
    """
    try:
        return store(entries)
    except REFUSED as error:
        if len(entries) == 1:
            reject(entries[0], error)
            return []
    middle = len(entries) // 2
    return store_each(entries[:middle], reject) + store_each(entries[middle:], reject)


def moment(entry: Settled) -> datetime:
    """When the request began. Raises ValueError for a time that no calendar has."""
    try:
        return datetime.fromtimestamp(entry.at, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("not a time") from error


def parameters(entry: Settled, started_at: datetime) -> list[Any]:
    """The values of a storable entry's row in the order of the columns."""
    row = list(_values(entry))
    row[_STARTED] = connection.ops.adapt_datetimefield_value(started_at)
    # Both databases take JSON as text.
    row[_ATTEMPTS] = encode(entry.attempts).decode()
    row[_ACCOUNTS] = encode([account for account, _, _ in entry.charges]).decode()
    row[_FLAGGED] = entry.outcome == "lost" or (entry.outcome == "upstream_timeout" and entry.sent)
    for place in _AMOUNTS:
        if row[place] is not None:
            row[place] = units(row[place])
    return row


@lru_cache(maxsize=1024)
def insertion(count: int) -> str:
    """The statement that makes so many rows and names those that were not there before."""
    quote = connection.ops.quote_name  # the same in every database that there is
    names = [quote(name) for name in _COLUMNS]
    values = f"({', '.join(['%s'] * len(names))})"
    table, key = quote(UsageRecord._meta.db_table), quote("id")
    # Only names of our own columns are put into the text.
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([values] * count)} "  # noqa: S608
        f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
    )
