"""Entries into rows: each request id once, however often its line comes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec
from django.db import DataError, connection, models, transaction

from ledger import alerts, leases, rollups
from ledger.entries import Settled
from ledger.fields import MoneyField
from ledger.models import UsageRecord
from ledger.money import units
from ledger.storable import storable
from ledger.tape import Reject

_FIELDS = UsageRecord._meta.concrete_fields
_COLUMNS = [field.attname for field in _FIELDS]
# Asked of every field, the question what its database value is took a third of the drain's time.
_TIMES = [field.attname for field in _FIELDS if isinstance(field, models.DateTimeField)]
_LISTS = [field.attname for field in _FIELDS if isinstance(field, models.JSONField)]
_AMOUNTS = [field.attname for field in _FIELDS if isinstance(field, MoneyField)]

encode = msgspec.json.Encoder().encode

# What an entry's values can cause. All else is the database's: no connection, a full disk, a table that is not there,
# and a broken constraint too, since `storable` keeps within all that the model has.
REFUSED = (DataError, ValueError, TypeError, OverflowError)


def store(entries: Sequence[Settled]) -> list[str]:
    """Insert the rows that are not there yet, in one transaction; returns the ids of those.

    Raises django.db.Error or ValueError, and has stored nothing then. In the caller's own transaction it is a part of
    that. What moves with a row (daily totals, spent money) moves for the returned ids, and so once.
    """
    columns = [row_of(entry) for entry in entries]
    rows = [parameters(dict(row)) for row in columns]
    # SQLite takes a bounded number of parameters a statement.
    step = (connection.features.max_query_params or 65_535) // len(_COLUMNS)
    new: list[str] = []
    with transaction.atomic(), connection.cursor() as cursor:
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            cursor.execute(insertion(len(part)), list(chain.from_iterable(part)))
            new += [request_id for (request_id,) in cursor.fetchall()]
        _move(entries, columns, set(new))
    return new


def _move(entries: Sequence[Settled], columns: Sequence[dict[str, Any]], new: set[str]) -> None:
    """Rollups and budgets, for each row that was not there before, in the same transaction: exactly once, therefore."""
    # Of two lines for the same request the first became the row.
    first: dict[str, tuple[Settled, dict[str, Any]]] = {}
    for entry, row in zip(entries, columns, strict=True):
        if row["id"] in new:
            first.setdefault(row["id"], (entry, row))
    if first:
        rollups.add(row for _, row in first.values())
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


def row_of(entry: Settled) -> dict[str, Any]:
    """The columns of the entry's row, made storable. Raises ValueError for a time that no calendar has."""
    row = msgspec.structs.asdict(storable(entry))
    try:
        row["started_at"] = datetime.fromtimestamp(row.pop("at"), UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("not a time") from error
    row["key_id"], row["team_id"] = row.pop("key"), row.pop("team")
    row["accounts"] = [account for account, _, _ in row.pop("charges")]
    row["flagged"] = entry.outcome == "lost" or (entry.outcome == "upstream_timeout" and entry.sent)
    return row


def parameters(row: dict[str, Any]) -> list[Any]:
    """The row's values in the order of the columns; only times, JSON and money look different there."""
    ops = connection.ops
    for name in _TIMES:
        row[name] = ops.adapt_datetimefield_value(row[name])
    for name in _LISTS:
        row[name] = encode(row[name]).decode()  # both databases take the text
    for name in _AMOUNTS:
        if row[name] is not None:
            row[name] = units(row[name])
    return [row[name] for name in _COLUMNS]


def insertion(count: int) -> str:
    """The statement that makes so many rows and names those that were not there before."""
    quote = connection.ops.quote_name
    names = [quote(name) for name in _COLUMNS]
    values = f"({', '.join(['%s'] * len(names))})"
    table, key = quote(UsageRecord._meta.db_table), quote("id")
    # Only names of our own columns are put into the text.
    return (
        f"INSERT INTO {table} ({', '.join(names)}) VALUES {', '.join([values] * count)} "  # noqa: S608
        f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
    )
