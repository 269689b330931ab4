"""The days that a page is about (pure): whole days in UTC, as the ledger counts them."""

from collections.abc import Iterator
from datetime import date, timedelta

import msgspec

PERIODS = {
    "7d": "7 days",
    "30d": "30 days",
    "90d": "90 days",
    "month": "This month",
    "last-month": "Last month",
}
USUAL = "30d"


class Span(msgspec.Struct, frozen=True):
    """Both days are part of it."""

    first: date
    last: date

    @property
    def length(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def end(self) -> date:
        """The day after it."""
        return self.last + timedelta(days=1)

    def days(self) -> Iterator[date]:
        return (self.first + timedelta(days=number) for number in range(self.length))

    def before(self) -> "Span":
        """As many days, right before it."""
        return Span(self.first - timedelta(days=self.length), self.first - timedelta(days=1))


def span_of(period: str, today: date) -> Span:
    """`period` is one of PERIODS."""
    month = today.replace(day=1)
    if period == "month":
        return Span(month, today)
    if period == "last-month":
        last = month - timedelta(days=1)
        return Span(last.replace(day=1), last)
    return Span(today - timedelta(days=int(period.removesuffix("d")) - 1), today)
