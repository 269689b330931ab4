"""GET /v1/key: what the holder of a key may know of it; made here."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from msgspec.structs import replace
from ninja import Router

from gateway.limits.claims import Standing, claim
from gateway.pipeline import call_of
from gateway.receipts import Call
from ledger import leases
from ledger.budgets import place_of
from ledger.models import DailyRollup
from ledger.money import ZERO, text
from providers.allowances import SECRET
from providers.targets import AliasCard, BudgetCard, KeyCard, Limits

NO_ALIAS = AliasCard("", "")
NO_LIMITS = Limits()

router = Router(tags=["key"])


@router.get("/key", summary="This key: what it may do, and what is left of it")
async def show(request: HttpRequest) -> HttpResponse:
    call = call_of(request)
    assert call.key is not None
    return HttpResponse(msgspec.json.encode(await describe(call, call.key)), content_type="application/json")


async def describe(call: Call, key: KeyCard) -> dict[str, Any]:
    """Amounts are US dollars as texts, times unix seconds; null is: no limit, all of them, never."""
    team = key.team
    said = {
        "object": "key",
        "id": key.id,
        "kind": key.kind,
        "aliases": list(key.aliases),
        "endpoints": list(key.endpoints) or None,
        "max_tokens": key.max_tokens,
        "max_n": key.max_n,
        "expires_at": None if key.expires_at is None else int(key.expires_at),
        "end_user": await _end_user(call, key, call.end_user) if call.end_user else None,
    }
    if key.kind != SECRET:  # its holder may be anybody: what is spent is for whoever pays
        return said
    return {
        **said,
        "name": key.name,
        "tags": dict(key.tags),
        "limits": _limits(call, replace(key, team=None)),
        "budgets": await _budgets(call, key.budgets),
        "team": None
        if team is None
        else {
            "name": team.name,
            "limits": _limits(call, replace(key, limits=NO_LIMITS)),
            "budgets": await _budgets(call, team.budgets),
        },
        "end_user_limits": _stated(key.end_user_limits),
        "end_user_budget": None
        if key.end_user_budget is None
        else {"amount": text(key.end_user_budget.amount), "period": key.end_user_budget.period},
    }


async def _end_user(call: Call, key: KeyCard, name: str) -> dict[str, Any]:
    """What one end user may have, and what it had today (UTC)."""
    alone = replace(key, limits=NO_LIMITS, team=None, address_limits=NO_LIMITS)
    stand = call.process.limiter.look(claim(alone, NO_ALIAS, name, call.id, lambda: 1))
    card = key.end_user_budget
    day = datetime.fromtimestamp(call.at, UTC).date()
    used = await call.process.sql(_used, key.id, name, day) if call.process.sql is not None else None
    return {
        "name": name,
        "limits": {
            "requests_per_minute": _standing(stand.requests),
            "tokens_per_minute": _standing(stand.tokens),
            "concurrency": key.end_user_limits.concurrency or None,
        },
        "budgets": await _budgets(call, [card], name) if card is not None else [],
        "today": used,
    }


def _used(key_id: str, end_user: str, day: date) -> dict[str, Any]:
    sums = {name: Sum(name, default=0) for name in ("requests", "tokens_in", "tokens_out")}
    found = DailyRollup.objects.filter(key_id=key_id, day=day, end_user=end_user).aggregate(**sums, cost=Sum("cost"))
    return {**found, "cost": text(found["cost"] or ZERO)}


def _limits(call: Call, key: KeyCard) -> dict[str, Any]:
    """`remaining` is what may pass at once now, as far as this process knows."""
    stand = call.process.limiter.look(claim(key, NO_ALIAS, "", call.id, lambda: 1))
    limits = key.limits or (key.team.limits if key.team else NO_LIMITS)
    return {
        "requests_per_minute": _standing(stand.requests),
        "tokens_per_minute": _standing(stand.tokens),
        "concurrency": limits.concurrency or None,
    }


def _standing(stand: Standing | None) -> dict[str, Any] | None:
    if stand is None:
        return None
    return {"limit": stand.limit, "remaining": stand.remaining, "full_in_seconds": round(stand.reset, 3)}


def _stated(limits: Limits) -> dict[str, Any]:
    return {
        "requests_per_minute": limits.rpm or None,
        "tokens_per_minute": limits.tpm or None,
        "concurrency": limits.concurrency or None,
    }


async def _budgets(call: Call, cards: Sequence[BudgetCard], subject: str = "") -> list[dict[str, Any]]:
    """What is spent lags behind by the requests under way and by those whose rows are not written yet."""
    if not cards:
        return []
    places = [place_of(card, subject, call.at) for card in cards]
    assert call.process.sql is not None
    spent = await call.process.sql(leases.spent, [place.id for place in places])
    return [
        {
            "period": card.period,
            "amount": text(card.amount),
            "spent": text(spent.get(place.id, ZERO)),
            "remaining": text(max(ZERO, card.amount - spent.get(place.id, ZERO))),
        }
        for card, place in zip(cards, places, strict=True)
    ]
