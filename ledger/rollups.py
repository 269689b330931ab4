"""Daily totals, moved in the transaction that makes the rows which they add up."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from operator import attrgetter
from typing import Any

import msgspec
from django.db import connection

from ledger.entries import Settled
from ledger.models import DailyRollup
from ledger.money import units

NAMES = ("key_id", "key_name", "team_id", "team_name", "end_user", "alias", "provider", "model")
SUMS = (
    *("requests", "errors", "unpriced", "tokens_in", "tokens_out", "tokens_cached", "tokens_reasoning"),
    *("cost", "saved"),
)
# Of every other end an error is counted, as in the dashboard and the rules for alerts of docs/grafana.
NO_ERROR = frozenset({"ok", "client_cancelled"})
_names_of = attrgetter("key", "key_name", "team", "team_name", "end_user", "alias", "provider", "upstream_model")
# A name that changes in the middle of a day makes no second row of it.
UNNAMED = tuple(name for name in NAMES if name not in ("key_name", "team_name"))


class Total(msgspec.Struct):
    """What is to be added to one rollup; `cost` in units."""

    day: date
    names: Mapping[str, str]
    sums: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(SUMS, 0))

    @property
    def id(self) -> str:
        parts = [self.day.isoformat(), *(self.names[name] for name in UNNAMED)]
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def add(settled: Iterable[tuple[Settled, datetime]]) -> None:
    """Add requests that have become rows, each with its start, to their days; in the caller's transaction."""
    found: dict[tuple[Any, ...], Total] = {}
    for entry, at in settled:
        names = _names_of(entry)
        place = (at.date(), names)
        total = found.get(place)
        if total is None:
            total = found[place] = Total(place[0], dict(zip(NAMES, names, strict=True)))
        sums, cost, saved = total.sums, entry.cost, entry.saved
        sums["requests"] += 1
        sums["errors"] += entry.outcome not in NO_ERROR
        sums["tokens_in"] += entry.tokens_in
        sums["tokens_out"] += entry.tokens_out
        sums["tokens_cached"] += entry.tokens_cached
        sums["tokens_reasoning"] += entry.tokens_reasoning
        if cost is None:
            sums["unpriced"] += 1
        else:
            sums["cost"] += units(cost)
        if saved is not None:
            sums["saved"] += units(saved)
    move(found.values())


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
