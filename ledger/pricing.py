"""Stored rows priced anew: what a period would have cost by the prices that hold today for its days."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from django.db import transaction
from django.db.models import F

from ledger import rollups
from ledger.models import BudgetAccount, UsageRecord
from ledger.money import ZERO, units
from ledger.ownprices import OwnPrices
from ledger.pricebook import PriceBook
from ledger.prices import Price, cost
from ledger.usage import Usage
from providers.models import Provider

BATCH = 500
COUNTS = (
    *("tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning", "tokens_audio_in", "tokens_audio_out"),
    *("images", "media_ms", "tokens_cache_write"),
)
# What stands in a row by an agreement and not by a price: the stated charge, and what a dead process had set aside.
AGREED = ("charge", "reservation")


class Repriced(msgspec.Struct):
    """`before` and `after` are US dollars, of the rows whose cost has changed."""

    rows: int = 0
    changed: int = 0
    before: Decimal = ZERO
    after: Decimal = ZERO


def reprice(since: datetime, until: datetime, *, dry_run: bool = False) -> Iterator[Repriced]:
    """Price the rows of [since, until) anew, each batch with its rollups and budgets in one transaction.

    Gives the running account after each batch; begun again it goes over all rows and changes what is still to change.
    """
    book, done = _book(), Repriced()
    addresses = dict(Provider.objects.values_list("name", "base_url"))
    last = ""
    while True:
        with transaction.atomic():
            rows = _batch(since, until, last)
            changed = [(row, new) for row in rows if (new := _priced(row, book, addresses)) is not None]
            done.rows += len(rows)
            done.changed += len(changed)
            done.before += sum((row.cost or ZERO for row, _ in changed), ZERO)
            done.after += sum((amount for _, (amount, _) in changed), ZERO)
            if not dry_run:
                _write(changed)
        yield done
        if len(rows) < BATCH:
            return
        last = rows[-1].id


New = tuple[Decimal, str]


def _book() -> PriceBook:
    book = PriceBook(OwnPrices())
    book.read_own()
    return book


def _batch(since: datetime, until: datetime, after: str) -> list[UsageRecord]:
    rows = UsageRecord.objects.select_for_update().filter(started_at__gte=since, started_at__lt=until, id__gt=after)
    return list(rows.order_by("id")[:BATCH])


def _priced(row: UsageRecord, book: PriceBook, addresses: dict[str, str]) -> New | None:
    """The new cost and its source; None where it stays as it is, or no price is known now either."""
    if row.price_source in AGREED or not row.sent or row.usage_source == "cache":
        return None
    before, now = _earlier(row, book, addresses)
    if now is None:
        return None
    own = _own(row, before, _price(row, row.provider, row.upstream_model, book, addresses))
    if own is None:
        return None
    amount, source = own[0] + now, own[1]
    return None if (amount, source) == (row.cost, row.price_source) else (amount, source)


def _own(row: UsageRecord, before: Decimal, price: Price | None) -> New | None:
    """The same of the attempt that the row's tokens are of; `before` is what the others were said to cost."""
    is_measured = row.usage_source != "none"
    if not is_measured and row.cost == before:
        return (ZERO, row.price_source) if before else None  # refused, or nothing that is billed
    if price is None or not (is_measured or price.request is not None):
        return None
    amount = cost(Usage(**{name: getattr(row, name) for name in COUNTS}), price)
    return None if amount is None else (amount, price.source)


def _price(row: UsageRecord, provider: str, model: str, book: PriceBook, addresses: dict[str, str]) -> Price | None:
    card = book.card(provider, addresses.get(provider, ""), model, row.alias, row.started_at)
    return card.at(row.started_at.timestamp())


def _earlier(row: UsageRecord, book: PriceBook, addresses: dict[str, str]) -> tuple[Decimal, Decimal | None]:
    """What earlier attempts of the request, that may have been charged, were said to cost, and what they cost now."""
    before = now = ZERO
    for attempt in row.attempts:
        if isinstance(attempt, dict) and "tokens_in" in attempt:
            price = _price(row, attempt["provider"], attempt["model"], book, addresses)
            amount = cost(Usage(attempt["tokens_in"], attempt["tokens_out"]), price) if price is not None else None
            if amount is None:
                return ZERO, None
            before += Decimal(attempt["cost"] or 0)
            now += amount
            attempt["cost"] = f"{amount.normalize():f}"
    return before, now


def _write(changed: list[tuple[UsageRecord, New]]) -> None:
    moved: list[rollups.Total] = []
    spent: dict[str, int] = defaultdict(int)
    for row, (amount, source) in changed:
        difference = units(amount) - units(row.cost or ZERO)
        columns: dict[str, Any] = {name: getattr(row, name) for name in (*rollups.NAMES, "started_at")}
        total = rollups.place_of({**columns, "upstream_model": row.upstream_model})
        total.sums |= {"cost": difference, "unpriced": -int(row.cost is None)}
        moved.append(total)
        for account_id in row.accounts:
            spent[account_id] += difference
        row.cost, row.price_source = amount, source
    UsageRecord.objects.bulk_update([row for row, _ in changed], ["cost", "price_source", "attempts"], batch_size=100)
    rollups.move(moved)
    for account_id, difference in sorted(spent.items()):
        BudgetAccount.objects.filter(pk=account_id).update(spent=F("spent") + difference)
