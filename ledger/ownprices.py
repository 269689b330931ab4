"""The operator's prices out of SQL, for the price book."""

import logging
from collections.abc import Sequence
from datetime import datetime

from ledger.models import PriceRow
from ledger.pricebook import OwnPrice
from ledger.prices import Price

log = logging.getLogger("ledger.prices")


class OwnPrices:
    """Called again and again, it gives the rows where any has changed since the last time, and None where none has."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, datetime]] | None = None

    def __call__(self) -> Sequence[OwnPrice] | None:
        seen = list(PriceRow.objects.order_by("id").values_list("id", "updated_at"))
        if seen == self._seen:
            return None
        rows = own_prices()
        self._seen = seen
        return rows


def own_prices() -> list[OwnPrice]:
    """Every row that can be used; one with a negative rate, which no form lets through, is left out and named."""
    found: list[OwnPrice] = []
    for row in PriceRow.objects.all():
        rates = {name: getattr(row, name) for name in PriceRow.RATES}
        if any(rate is not None and rate < 0 for rate in rates.values()):
            log.error("left out: price %s: a rate is negative", row)
            continue
        ends = row.ends_at.timestamp() if row.ends_at else float("inf")
        found.append(OwnPrice(Price(**rates), row.alias, row.provider, row.model, row.starts_at.timestamp(), ends))
    return found
