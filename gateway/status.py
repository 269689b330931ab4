"""What one process can tell of its providers: which are out of order, which are slow, and how it is itself."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from gateway.explaining import breaker
from gateway.process import Process
from gateway.routing.breakers import Breakers, Watch
from providers.snapshot import Catalog

MOST = 200  # targets that are told: those that are out of order first, then the busiest
ENOUGH = 20  # answers, below which nothing is called slow
SLOW = 3.0  # times the median of all targets


def report(process: Process, catalog: Catalog) -> dict[str, Any]:
    """For the event loop's thread: it reads what requests change."""
    return {
        "object": "gateway.status",
        "process": process.limiter.store.process,
        "limits_counted_in": process.limiter.mode,
        "questions_compared_by": process.cache.compared_by if process.cache is not None else "gateway",
        "open_requests": len(process.receipts),
        "journal_pending_bytes": getattr(process.journal, "pending", 0),
        "catalog_age_seconds": round(max(time.time() - catalog.loaded_at, 0.0), 1),
        "targets": targets(process.breakers),
    }


def targets(breakers: Breakers) -> list[dict[str, Any]]:
    watches = sorted(breakers.watches(), key=lambda watch: (watch.opened_at is None, -len(watch.seconds)))[:MOST]
    usual = [part(watch, 0.5) for watch in watches if len(watch.seconds) >= ENOUGH]
    middle = median(usual) if usual else 0.0
    now = breakers.now()
    return [_told(watch, now, middle) for watch in watches]


def _told(watch: Watch, now: float, middle: float) -> dict[str, Any]:
    target, counted = watch.target, len(watch.seconds)
    good, bad = watch.recent(now)
    whole = watch.status == 401  # of a refused token all models are meant
    return {
        "provider": target.provider.name,
        "credential": target.credential.name if target.credential else None,
        "model": "every model" if whole and watch.opened_at is not None else target.model,
        "breaker": breaker(watch if watch.opened_at is not None else None, now),
        "answers_30_s": good + bad,
        "failures_30_s": bad,
        "first_byte_ms": {
            "p50": round(part(watch, 0.5) * 1000) if counted else None,
            "p95": round(part(watch, 0.95) * 1000) if counted else None,
            "of": counted,
        },
        "slow": counted >= ENOUGH and part(watch, 0.5) > SLOW * middle,
    }


def part(watch: Watch, share: float) -> float:
    """Seconds within which so much of the newest answers began."""
    ranked: Sequence[float] = sorted(watch.seconds)
    return ranked[min(int(len(ranked) * share), len(ranked) - 1)]
