"""What would become of a request, without any of it: the alias, its routes in order and why, limits, cost, the cache.

Nothing is taken, nothing is sent and no row is written. The command `explain` tells the same, as far as the database
has it; what is in a serving process's memory only that process can tell.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from gateway.admission import within_scope
from gateway.errors import BadRequest, ScopeRefused, Unauthorized
from gateway.limits.claims import Claim, Estimates, Standing, Verdict, claim
from gateway.parsing.asks import Ask
from gateway.receipts import Receipt
from gateway.routing import order as routing
from gateway.routing.breakers import Breakers, Watch
from gateway.spending import OUTPUT_CAP, budgets_of, most
from gateway.wayfinding import no_route, unknown_model
from ledger import leases
from ledger.budgets import place_of
from ledger.money import ZERO, rounded, text
from ledger.pricebook import PriceBook
from ledger.pricebook import Verdict as NoPrice
from ledger.prices import Price
from providers import callers, snapshot
from providers.snapshot import Catalog, is_usable
from providers.targets import AliasCard, BudgetCard, KeyCard, Target


class Case(msgspec.Struct, frozen=True):
    """A request that is only asked about."""

    ask: Ask
    key: KeyCard
    config: Catalog
    at: float  # unix seconds
    address: str = ""

    @property
    def alias(self) -> AliasCard:
        """Raises UnknownModel, for one that the key may not use too."""
        match = self.config.match(self.ask.model) if self.key.may_use(self.ask.model) else None
        if match is None:
            raise unknown_model(self.ask.model)
        return match[0]


async def explained(ask: Ask, receipt: Receipt) -> dict[str, Any]:
    """Raises what the request itself would be refused with before it costs anything, but for a limit or a budget."""
    call, process, key = receipt.call, receipt.process, receipt.call.key
    if key is None:
        raise Unauthorized("You didn't provide an API key.")
    if not key.may_explain:
        raise ScopeRefused("This key may not ask for explanations: `x-gateway-explain`.")
    if not ask.names_model:
        raise BadRequest("Only requests that name a model can be explained.", param="x-gateway-explain")
    config, address = snapshot.current(), callers.network(call.caller())
    ask = receipt.ask = within_scope(key, ask, receipt)
    case = Case(ask, key, config, call.at, address)
    alias = case.alias
    targets = ordered(case)
    places = [(target.provider, target.model, alias.name) for target in targets]
    await asyncio.to_thread(process.prices.resolve, places)
    cards = budgets_of(key, config)
    accounts = {card: place_of(card, ask.end_user, call.at).id for card in cards}
    spent: Mapping[str, Decimal] = {}
    if cards and process.sql is not None and process.budgets is not None:
        spent = await process.sql(leases.spent, list(accounts.values()))
    return {
        **said(case, targets, process.prices, process.limiter.estimates),
        "routes": routes(case, targets, process.prices, process.breakers),
        "limits": limits(case, process.limiter.look, process.limiter.estimates),
        "budgets": [budget(card, spent.get(accounts[card], ZERO)) for card in cards],
        "cache": {"state": "off"}
        if alias.cache is None
        else await process.cache.peek(ask, alias, key, targets[0], receipt, config),
    }


def ordered(case: Case) -> tuple[Target, ...]:
    """Raises Overloaded where there is none."""
    alias = case.alias
    targets = case.config.targets(alias, case.ask.model, routing.order(alias))
    if not targets:
        raise no_route(f"The model `{case.ask.model}`")
    return targets


def said(case: Case, targets: Sequence[Target], book: PriceBook, estimates: Estimates) -> dict[str, Any]:
    ask, alias = case.ask, case.alias
    worst = [amount for target in targets if (amount := _worst(case, price(case, target, book))) is not None]
    return {
        "object": "gateway.explanation",
        "model": ask.model,
        "endpoint": ask.endpoint,
        "alias": alias.name,
        "strategy": alias.strategy,
        "tokens": {
            "estimated": estimates.tokens(case.key, ask),
            "most_in": ask.prompt_bound,
            "most_out": ask.output_bound(OUTPUT_CAP),
        },
        "most_cost": text(max(worst)) if worst else None,
    }


def routes(case: Case, targets: Sequence[Target], book: PriceBook, breakers: Breakers | None) -> list[dict[str, Any]]:
    """Those that would be tried, in their order, and then those that would not."""
    alias = case.alias
    why = {
        "ordered": "as the operator has put them",
        "weighted": "drawn by weight, for each request anew",
    }.get(alias.strategy, alias.strategy)
    found: list[dict[str, Any]] = []
    for number, target in enumerate(targets, 1):
        watch = breakers.blocking(target) if breakers is not None else None
        amount = _worst(case, known := price(case, target, book))
        found.append(
            {
                "provider": target.provider.name,
                "model": target.model,
                "credential": target.credential.name if target.credential else None,
                "place": number,
                "why": why,
                "breaker": None if breakers is None else breaker(watch, breakers.now()),
                "price_source": known.source if known is not None else None,
                "most_cost": None if amount is None else text(amount),
            }
        )
    used = {target.provider.id for target in targets}
    for route in alias.routes:
        provider = case.config.providers.get(route.provider_id)
        if provider is not None and provider.id not in used and not is_usable(provider):
            reason = "it has no credential that can be used" if provider.enabled else "it is disabled"
            found.append({"provider": provider.name, "model": route.model, "place": None, "why": reason})
    return found


def breaker(watch: Watch | None, now: float) -> dict[str, Any]:
    if watch is None or watch.opened_at is None:
        return {"state": "closed"}
    return {
        "state": "open",
        "because": watch.because,
        "status": watch.status or None,
        "for_seconds": round(now - watch.opened_at, 1),
        "trial_in_seconds": round(max(watch.trial_at - now, 0.0), 1),
    }


def limits(case: Case, look: Callable[[Claim], Verdict], estimates: Estimates) -> list[dict[str, Any]]:
    """Each limit that the request would be counted by, and what may pass at once now, as far as is known here."""
    address = case.address if case.key.address_limits else ""
    tokens = estimates.tokens(case.key, case.ask)
    made = claim(case.key, case.alias, case.ask.end_user, "explain", lambda: tokens, address)
    found: list[dict[str, Any]] = [
        {"of": slot.scope, "kind": "requests at once", "limit": slot.limit} for slot in made.slots
    ]
    for charge in made.charges:
        verdict = look(Claim("explain", [], [charge]))
        stand = verdict.requests or verdict.tokens
        row = {"of": charge.scope, "kind": f"{charge.kind} a minute", "limit": charge.rate.limit, "takes": charge.cost}
        found.append(row | _standing(stand))
    return found


def _standing(stand: Standing | None) -> dict[str, Any]:
    return {} if stand is None else {"remaining": stand.remaining, "full_in_seconds": round(stand.reset, 3)}


def budget(card: BudgetCard, spent: Decimal) -> dict[str, Any]:
    left = max(ZERO, card.amount - spent)
    return {
        "of": card.scope.replace("_", " "),
        "period": card.period,
        "amount": text(card.amount),
        "spent": text(spent),
        "remaining": str(left),
    }


def price(case: Case, target: Target, book: PriceBook) -> Price | None:
    found = book.find(target.provider, target.model, case.alias.name, case.at)
    return None if isinstance(found, NoPrice) else found


def _worst(case: Case, known: Price | None) -> Decimal | None:
    if known is None:
        return None
    amount = most(case.ask)(known)
    return None if amount is None else rounded(amount)
