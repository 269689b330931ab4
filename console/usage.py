"""*Usage* in the admin: what was asked in a time, by whom or of what, as charts a day, a table, and CSV."""

import csv
from collections.abc import Callable, Mapping
from datetime import UTC, date
from decimal import Decimal
from functools import partial
from typing import Any

import msgspec
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from console import charts, groupings, numbers, spans, sums
from console.charts import Measure, Series
from console.groupings import GROUPINGS, Grouping
from console.spans import PERIODS, Span
from console.sums import Sums, Table
from ledger.export import cell
from ledger.money import text

COLUMNS = {
    "cost": "Cost",
    "requests": "Requests",
    "errors": "Errors",
    "tokens_in": "Tokens in",
    "tokens_cached": "Of these cached",
    "tokens_out": "Tokens out",
    "saved": "Saved by cache",
    "unpriced": "Without price",
}
Money = Callable[[Any], str]


class Asked(msgspec.Struct, frozen=True):
    """What the address asks for; words that it does not know are the usual ones."""

    period: str
    by: str
    span: Span

    @property
    def grouping(self) -> Grouping:
        return GROUPINGS[self.by]

    def query(self, **other: str) -> str:
        return f"?{urlencode({'period': self.period, 'by': self.by, **other})}"


class Cell(msgspec.Struct, frozen=True):
    """`value` is exact, `text` is what has room."""

    value: str
    text: str
    remark: str = ""


class Line(msgspec.Struct, frozen=True):
    """A group in the table; no address for those that are not told one by one."""

    series: Series
    cells: list[Cell]
    address: str
    share: str
    width: str  # of 100


def asked(request: HttpRequest) -> Asked:
    if not request.user.has_perm("ledger.view_usagerecord"):
        raise PermissionDenied
    period, by = request.GET.get("period", ""), request.GET.get("by", "")
    period, by = period if period in PERIODS else spans.USUAL, by if by in GROUPINGS else groupings.USUAL
    return Asked(period, by, spans.span_of(period, timezone.now().astimezone(UTC).date()))


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """`?period=` and `&by=`, for staff who may see usage rows."""
    wish = asked(request)
    table = sums.table(wish.span, wish.grouping, sums.TOP)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Usage",
        "asked": wish,
        "periods": [(label, wish.query(period=name), name == wish.period) for name, label in PERIODS.items()],
        "groupings": [(one.label, wish.query(by=name), name == wish.by) for name, one in GROUPINGS.items()],
        "csv": wish.query(),
        "total": table.total,
    }
    if table.total.requests:
        context |= _found(wish, table)
    else:
        context["is_new"] = sums.is_empty()
    return TemplateResponse(request, "console/usage.html", context)


@require_safe
def download(request: HttpRequest) -> HttpResponse:
    """The table as CSV, with more groups than a page has room for."""
    wish = asked(request)
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    name = f"usage-by-{wish.by.replace('_', '-')}-{wish.span.first}-{wish.span.last}.csv"
    answer.headers["content-disposition"] = f'attachment; filename="{name}"'
    writer = csv.writer(answer, lineterminator="\r\n")
    own = [wish.by] if not wish.grouping.names else [f"{wish.by}_id", wish.by]
    writer.writerow([*own, *sums.FIELDS])
    for group in sums.table(wish.span, wish.grouping, sums.LISTED).groups:
        names = [group.name if group.value is None else group.value]
        if wish.grouping.names:
            names = ["", group.name] if group.value is None else [group.value, group.name if group.value else ""]
        writer.writerow(map(cell, [*names, *msgspec.structs.astuple(group.sums)]))
    return answer


def _found(wish: Asked, table: Table) -> dict[str, Any]:
    days = list(wish.span.days())
    places = numbers.places_for(table.total.cost)
    series = [
        Series(group.value, group.name, "rest" if group.value is None else f"s{place}")
        for place, group in enumerate(table.groups)
    ]
    parts = sums.by_day(wish.span, wish.grouping, table.told)
    money = partial(numbers.dollars, places=places)
    tiles = _tiles(table.total, sums.total(wish.span.before()), wish.span, money)
    cells = partial(_cells, money=money, priced=not table.total.unpriced)
    return {
        "charts": [charts.draw(f"chart-{one.title.lower()}", one, days, series, parts) for one in _measures(money)],
        "columns": [label for name, label in COLUMNS.items() if name != "unpriced" or table.total.unpriced],
        "lines": _lines(wish, table, series, cells),
        "whole": cells(table.total),
        "days": [(day, cells(one)) for day, one in _days(days, parts)],
        "tiles": tiles,
        "is_compared": any(tile["change"] for tile in tiles),
        "measured": "cost" if table.total.cost else "requests",
    }


def _measures(money: Money) -> tuple[Measure, ...]:
    return (
        Measure("Cost", lambda one: one.cost, money, whole=False),
        Measure("Requests", lambda one: one.requests, lambda number: f"{number:,}"),
        Measure("Tokens", lambda one: one.tokens, lambda number: f"{number:,}"),
        Measure("Errors", lambda one: one.errors, lambda number: f"{number:,}"),
    )


def _cells(one: Sums, money: Money, *, priced: bool) -> list[Cell]:
    found = []
    for name in COLUMNS:
        value = getattr(one, name)
        if name == "unpriced" and priced:
            continue
        if isinstance(value, Decimal):
            found.append(Cell(text(value), money(value)))
        else:
            rate = numbers.percent(one.errors, one.requests) if name == "errors" and one.errors else ""
            found.append(Cell(str(value), f"{value:,}", rate))
    return found


def _lines(wish: Asked, table: Table, series: list[Series], cells: Callable[[Sums], list[Cell]]) -> list[Line]:
    whole = table.total.cost or table.total.requests
    lines = []
    for one, group in zip(series, table.groups, strict=True):
        part = group.sums.cost if table.total.cost else group.sums.requests
        address = "" if group.value is None else wish.grouping.rows_address(group.value, wish.span)
        width = f"{max(part, 0) * 100 / whole:.2f}"
        lines.append(Line(one, cells(group.sums), address, numbers.percent(part, whole), width))
    return lines


def _tiles(total: Sums, before: Sums, span: Span, money: Money) -> list[dict[str, str]]:
    """The numbers at the head: a name, a number, a remark, and the change since the days before."""
    remarks = {
        "cost": f"{money(total.cost / span.length)} a day",
        "requests": f"{numbers.compact(total.requests // span.length)} a day",
        "tokens": f"{numbers.compact(total.tokens_in)} in, {numbers.compact(total.tokens_out)} out",
        "errors": f"{numbers.percent(total.errors, total.requests)} of requests",
        "saved": f"{numbers.percent(total.saved, total.saved + total.cost) or '0%'} less to pay",
    }
    shown = {
        "cost": money(total.cost),
        "requests": f"{total.requests:,}",
        "tokens": numbers.compact(total.tokens),
        "errors": f"{total.errors:,}",
        "saved": money(total.saved),
    }
    return [
        {
            "name": COLUMNS.get(name, name.capitalize()),
            "number": number,
            "remark": remarks[name],
            "change": numbers.change(getattr(total, name), getattr(before, name)),
        }
        for name, number in shown.items()
    ]


def _days(days: list[date], parts: Mapping[tuple[date, str | None], Sums]) -> list[tuple[date, Sums]]:
    """What each day adds up to, the newest first: the charts in numbers."""
    found: dict[date, list[Sums]] = {day: [] for day in reversed(days)}
    for (day, _), one in parts.items():
        found[day].append(one)
    return [(day, sums.added(some)) for day, some in found.items()]
