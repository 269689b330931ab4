"""The built-in prices: genai-prices' own table, as it was at its release; nothing is fetched (pure).

https://github.com/pydantic/genai-prices. The table takes half a second to load, so it is imported by the first question
and asked on the SQL thread only.
"""

from datetime import datetime
from decimal import Decimal
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from ledger.prices import Price

SOURCE = "genai-prices"
RATES = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_in": "input_audio_mtok",
    "audio_out": "output_audio_mtok",
}


def price(base_url: str, model: str, at: datetime) -> Price | None:
    """The price of a model at the provider with that address, at that time; None where the table has none."""
    if not model or _is_own(base_url):
        return None
    from genai_prices.data_snapshot import get_snapshot

    try:
        _, info = get_snapshot().find_provider_model(model, None, None, base_url)
        return _price(info.get_prices(at))
    except LookupError:
        return None


def _is_own(base_url: str) -> bool:
    """A machine of one's own, by the look of its address: no public price list has it, and none need be loaded."""
    host = urlsplit(base_url).hostname or ""
    if host in ("", "localhost") or "." not in host:
        return True
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def _price(rates: Any) -> Price | None:
    """The library's rates, which may each have tiers of their own, as a price for each span between two thresholds."""
    values = {ours: getattr(rates, theirs) for ours, theirs in RATES.items()}
    per_thousand = rates.requests_kcount
    request = None if per_thousand is None else _rate(per_thousand, 0)
    request = None if request is None else request / 1000
    if request is None and all(value is None for value in values.values()):
        return None
    starts = {tier.start for value in values.values() for tier in getattr(value, "tiers", ())}

    def above(start: int) -> dict[str, Any]:
        return {name: _rate(value, start) for name, value in values.items()} | {"request": request, "source": SOURCE}

    tiers = tuple((start, Price(**above(start))) for start in sorted(starts))
    return Price(**above(0), tiers=tiers)


def _rate(value: Any, start: int) -> Decimal | None:
    """The rate that holds for more than `start` input tokens."""
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return None if value is None else Decimal(value)
    rate: Decimal = value.base
    for tier in tiers:
        if 0 < tier.start <= start:
            rate = tier.price
    return rate
