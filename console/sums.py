"""Usage added up by SQL, out of the ledger's daily totals: a few statements, whatever the number of rows."""

from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
from django.db.models import Case, CharField, Count, F, Max, QuerySet, Sum, Value, When

from console.groupings import Grouping
from console.spans import Span
from ledger.models import DailyRollup
from ledger.money import ZERO, rounded

TOP = 10  # more colours nobody tells apart
LISTED = 5000


class Sums(msgspec.Struct, frozen=True):
    """`cost` and `saved` are US dollars; `tokens_cached` and `tokens_reasoning` are parts of the tokens before them."""

    requests: int = 0
    errors: int = 0
    unpriced: int = 0
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    tokens_reasoning: int = 0
    cost: Decimal = ZERO
    saved: Decimal = ZERO

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


NOTHING = Sums()
FIELDS = Sums.__struct_fields__
MONEY = ("cost", "saved")
ADDED = {name: Sum(name) for name in FIELDS}


class Group(msgspec.Struct, frozen=True):
    """`value` is the column's; None: all those that are not told one by one."""

    value: str | None
    name: str
    sums: Sums


class Table(msgspec.Struct, frozen=True):
    """The sums of the groups are `total`, to the last digit."""

    groups: list[Group]
    total: Sums

    @property
    def told(self) -> list[str]:
        return [group.value for group in self.groups if group.value is not None]


def total(span: Span) -> Sums:
    return _sums(_rows(span).aggregate(**ADDED))


def table(span: Span, grouping: Grouping, limit: int) -> Table:
    """The dearest groups, or where nothing cost anything the most asked; the others are one group at the end."""
    rows = _rows(span)
    found = rows.aggregate(**ADDED, groups=Count(grouping.column, distinct=True))
    whole, count = _sums(found), found["groups"]
    names = {"stored": Max(grouping.names)} if grouping.names else {}
    ranked = rows.values(grouping.column).annotate(**ADDED, **names).order_by("-cost", "-requests", grouping.column)
    best = list(ranked[:limit])
    names_of = _names(best, grouping)
    groups = [Group(row[grouping.column], name, _sums(row)) for row, name in zip(best, names_of, strict=True)]
    if count > len(groups):
        rest = count - len(groups)
        name = f"{rest:,} other" + "s" * (rest > 1)
        groups.append(Group(None, name, difference(whole, added(group.sums for group in groups))))
    return Table(groups, whole)


def _names(rows: list[dict[str, Any]], grouping: Grouping) -> list[str]:
    """Those of today, else those of then; with the id where two have one name, as a key and its successor."""
    values = [row[grouping.column] for row in rows]
    current = grouping.current_names(values)
    names = [
        (current.get(value) or row.get("stored") or value) if value else grouping.nothing
        for row, value in zip(rows, values, strict=True)
    ]
    return [
        f"{name} ({value})" if names.count(name) > 1 and value else name
        for name, value in zip(names, values, strict=True)
    ]


def by_day(span: Span, grouping: Grouping, told: list[str]) -> dict[tuple[date, str | None], Sums]:
    """The sums of each day and group; None holds all that is not in `told`."""
    named = When(**{f"{grouping.column}__in": told}, then=F(grouping.column))
    part = Case(named, default=Value(None), output_field=CharField(null=True))
    rows = _rows(span).annotate(part=part).values("day", "part").annotate(**ADDED).order_by("day")
    return {(row["day"], row["part"]): _sums(row) for row in rows}


def added(some: Iterable[Sums]) -> Sums:
    columns = zip(*map(msgspec.structs.astuple, [NOTHING, *some]), strict=True)
    values: dict[str, Any] = dict(zip(FIELDS, map(sum, columns), strict=True))
    return Sums(**values | {name: rounded(values[name]) for name in MONEY})


def difference(whole: Sums, part: Sums) -> Sums:
    values: dict[str, Any] = {name: getattr(whole, name) - getattr(part, name) for name in FIELDS}
    return Sums(**values | {name: rounded(values[name]) for name in MONEY})


def is_empty() -> bool:
    """Whether no request was ever counted."""
    return not DailyRollup.objects.exists()


def _rows(span: Span) -> QuerySet[DailyRollup]:
    return DailyRollup.objects.filter(day__gte=span.first, day__lte=span.last).order_by()


def _sums(row: Mapping[str, Any]) -> Sums:
    # SQL gives null for the sum of no rows, and PostgreSQL a Decimal for that of whole numbers.
    values: dict[str, Any] = {name: int(row[name] or 0) for name in FIELDS if name not in MONEY}
    values |= {name: row[name] or ZERO for name in MONEY}
    return Sums(**values)
