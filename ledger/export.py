"""Usage rows as CSV (RFC 4180), read in bounded pieces."""

import csv
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

from ledger import money
from ledger.models import UsageRecord

COLUMNS = tuple(field.attname for field in UsageRecord._meta.concrete_fields)
PIECE = 500
# A text that begins so is a formula to a spreadsheet, and it comes from a stranger.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Echo:
    """A file that hands back what is written into it."""

    def write(self, line: str) -> str:
        return line


def lines(rows: QuerySet[UsageRecord]) -> Iterator[str]:
    """The head, then a line a row in the order of `rows`."""
    writer = csv.writer(Echo(), lineterminator="\r\n")
    yield writer.writerow(COLUMNS)
    for values in rows.values_list(*COLUMNS).iterator(chunk_size=PIECE):
        yield writer.writerow(map(cell, values))


async def pieces(rows: QuerySet[UsageRecord]) -> AsyncIterator[str]:
    """The same, some lines at once, for an asynchronous response: a plain iterator it would read to its end first."""
    found = lines(rows)
    while piece := await sync_to_async(lambda: "".join(islice(found, PIECE)))():
        yield piece


def cell(value: Any) -> str:
    """The value as plain text: an empty cell is null, a time is ISO 8601 in UTC, and no text is a formula."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value, separators=(",", ":"))
    if isinstance(value, Decimal):
        return money.text(value)
    text = str(value)
    return "'" + text if isinstance(value, str) and text.startswith(FORMULA) else text


def within(since: datetime | None, until: datetime | None) -> QuerySet[UsageRecord]:
    """The rows of that time, oldest first."""
    rows = UsageRecord.objects.order_by("started_at", "id")
    if since is not None:
        rows = rows.filter(started_at__gte=since)
    return rows if until is None else rows.filter(started_at__lt=until)


def written(rows: Iterable[str], write: Any) -> int:
    """Write the lines; how many rows there were."""
    count = -1
    for line in rows:
        write(line)
        count += 1
    return count
