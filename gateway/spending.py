"""The money of a request before it is sent: its prices, the most that it can cost, and room for that in its budgets."""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial

import msgspec

from gateway.bills import Bill
from gateway.errors import BudgetExhausted, Forbidden, LedgerUnavailable, Overloaded
from gateway.parsing.asks import Ask
from gateway.receipts import Receipt
from ledger import prices
from ledger.budgets import Exhausted, Unavailable
from ledger.money import units_up
from ledger.pricebook import Verdict
from ledger.prices import Price
from providers.snapshot import Catalog
from providers.targets import AliasCard, BudgetCard, KeyCard, Target

# Tokens of an answer whose bound neither the client nor the key gives: set in the request where a budget counts on it.
OUTPUT_CAP = 4096
SCOPES = {"key": "this key", "team": "this key's team", "end_user": "this end user", "gateway": "the gateway"}


class PriceUnknown(Forbidden):
    """The key may only be used where the price is known."""

    code = "price_unknown"
    retryable = False


class Terms(msgspec.Struct, frozen=True):
    """What the rest of the way is to use: the ask, perhaps with a bound, and the targets that may be paid."""

    ask: Ask
    targets: tuple[Target, ...]


async def reserve(
    key: KeyCard, alias: AliasCard, targets: tuple[Target, ...], receipt: Receipt, config: Catalog
) -> Terms:
    """Set the worst case aside. Raises PriceUnknown, BudgetExhausted, and Overloaded where SQL does not answer."""
    ask, bill = receipt.ask, Bill(budgets=receipt.process.budgets)
    if not ask.is_billed:
        return Terms(ask, targets)
    cards = budgets_of(key, config)
    if cards:
        ask = ask.bounded(OUTPUT_CAP)
    found = [await _price(alias, target, receipt) for target in targets]
    # The bounds read the whole prompt: once, and only where there is a price to put on them.
    worst = most(ask) if any(price is not None for price in found) else None
    payable, may_cost = [], False
    for target, known in zip(targets, found, strict=True):
        price, amount = known, None if worst is None or known is None else worst(known)
        if amount is None and key.unknown_price != "allow":
            # One that says nothing of what this call is made of is no price for this key.
            price = _stated(key)
            if price is None:
                continue
            amount = price.request
        if amount is not None and (bill.reserved is None or amount > bill.reserved):
            bill.reserved = amount
        may_cost = may_cost or (price is not None and price.may_cost)
        bill.price_of[target.provider.id, target.model] = price
        payable.append(target)
    if not payable:
        raise PriceUnknown(
            f"The price of `{ask.model or ask.endpoint}` is not known, and this key may not be used without one."
        )
    receipt.bill = bill
    if cards and bill.reserved is not None:
        # Of sound and film nobody knows beforehand what they cost: something is held, so that a spent budget refuses
        # them and their cost is taken from it.
        held = units_up(bill.reserved) or int(may_cost)
        if held:
            await _hold(cards, held, bill, receipt)
    return Terms(ask, tuple(payable))


def most(ask: Ask) -> Callable[[Price], Decimal | None]:
    """The most (USD) that the request can cost by a price, as far as it says; None where that is unknown."""
    images = ask.choices if ask.endpoint == "images" else 0
    return partial(prices.worst, tokens_in=ask.prompt_bound, tokens_out=ask.output_bound(OUTPUT_CAP), images=images)


def budgets_of(key: KeyCard, config: Catalog) -> list[BudgetCard]:
    cards = [*key.budgets, *config.gateway_budgets]
    if key.team is not None:
        cards += key.team.budgets
    if key.end_user_budget is not None:
        cards.append(key.end_user_budget)
    return cards


async def _hold(cards: Sequence[BudgetCard], amount: int, bill: Bill, receipt: Receipt) -> None:
    budgets, at, subject = receipt.process.budgets, receipt.call.at, receipt.ask.end_user
    if budgets is None:
        raise Overloaded("Budgets cannot be kept now.", code="budget_unavailable", retry_after=5)
    bill.hold = budgets.hold(cards, subject, amount, at)
    if bill.hold is not None:
        return
    try:
        bill.hold = await budgets.take(cards, subject, amount, at)
    except Exhausted as exc:
        whose = SCOPES.get(exc.place.scope, "this call")
        period = {"day": "today's", "month": "this month's"}.get(exc.place.period, "the whole")
        raise BudgetExhausted(f"What is left of {period} budget of {whose} does not cover this call.") from None
    except Unavailable:
        raise Overloaded("The budget cannot be read now.", code="budget_unavailable", retry_after=5) from None


async def reserve_again(receipt: Receipt) -> bool:
    """Set the worst case aside once more; False where there is no room for it, or nobody says so in time."""
    try:
        await receipt.bill.add_call()
        await receipt.admit_again()
    except (Exhausted, Unavailable, LedgerUnavailable):
        return False
    return True


async def _price(alias: AliasCard, target: Target, receipt: Receipt) -> Price | None:
    """From memory; looked for in a thread of its own where no request has asked before."""
    book, at = receipt.process.prices, receipt.call.at
    price = book.find(target.provider, target.model, alias.name, at)
    if not isinstance(price, Verdict):
        return price
    found = await asyncio.to_thread(book.resolve, [(target.provider, target.model, alias.name)])
    return found[target.provider.id, target.model, alias.name].at(at)


def _stated(key: KeyCard) -> Price | None:
    """What an unknown price is charged with, by the key's policy."""
    if key.unknown_price == "charge" and key.unknown_price_charge is not None:
        return Price(request=key.unknown_price_charge, source="charge")
    return None
