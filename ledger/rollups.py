"""Daily totals, moved in the transaction that makes the rows which they add up."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date
from decimal import Decimal
from typing import Any

from django.db import connection

from ledger.models import DailyRollup
from ledger.money import ZERO, units

NAMES = ("key_id", "key_name", "team_id", "team_name", "end_user", "alias", "provider", "model")
SUMS = ("requests", "unpriced", "tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning", "cost", "saved")
# A name that changes in the middle of a day makes no second row of it.
UNNAMED = tuple(name for name in NAMES if name not in ("key_name", "team_name"))


@dataclass(slots=True)
class Total:
    """What is to be added to one rollup; `cost` in units."""

    day: date
    names: Mapping[str, str]
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))

    @property
    def id(self) -> str:
        parts = [self.day.isoformat(), *(self.names[name] for name in UNNAMED)]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def add(rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows, given as their columns, to their days; in the caller's transaction."""
    move(total_of(row) for row in rows)


def total_of(row: Mapping[str, Any]) -> Total:
    """One row's share."""
    cost: Decimal | None = row["cost"]
    total = place_of(row)
    for name in ("tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning"):
        total.sums[name] = row[name]
    total.sums |= {
        "requests": 1,
        "unpriced": int(cost is None),
        "cost": units(cost or ZERO),
        "saved": units(row["saved"] or ZERO),
    }
    return total


def place_of(row: Mapping[str, Any]) -> Total:
    """The rollup that the row belongs to, and nothing to add to it yet."""
    names = {name: row[name] for name in NAMES if name != "model"} | {"model": row["upstream_model"]}
    return Total(row["started_at"].astimezone(UTC).date(), names)


def move(totals: Iterable[Total]) -> None:
    """Add up what belongs to the same rollup, and write each with one upsert, always in the same order."""
    found: dict[str, Total] = {}
    for total in totals:
        known = found.setdefault(total.id, total)
        if known is not total:
            for name in SUMS:
                known.sums[name] += total.sums[name]
    if not found:
        return
    columns = ("id", "day", *NAMES, *SUMS)
    step = (connection.features.max_query_params or 65_535) // len(columns)
    # Two processes that lock the same rows in different orders would wait for each other.
    ordered = sorted(found.items())
    for start in range(0, len(ordered), step):
        part = ordered[start : start + step]
        values: list[Any] = []
        for key, total in part:
            values += [key, total.day.isoformat(), *(total.names[name] for name in NAMES), *total.sums.values()]
        with connection.cursor() as cursor:
            cursor.execute(_upsert(columns, len(part)), values)


def _upsert(columns: tuple[str, ...], count: int) -> str:
    quote = connection.ops.quote_name
    table = quote(DailyRollup._meta.db_table)
    values = f"({', '.join(['%s'] * len(columns))})"
    sums = ", ".join(f"{quote(name)} = {table}.{quote(name)} + excluded.{quote(name)}" for name in SUMS)
    # Only names of our own columns are put into the text.
    return (
        f"INSERT INTO {table} ({', '.join(map(quote, columns))}) VALUES {', '.join([values] * count)} "  # noqa: S608
        f"ON CONFLICT ({quote('id')}) DO UPDATE SET {sums}"
    )
