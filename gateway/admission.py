"""What a request may have, and from whom. The order of the steps is security, so it is code and not configuration."""

from dataclasses import dataclass, replace
from functools import partial

from gateway import wayfinding
from gateway.asks import BOUND, Ask
from gateway.errors import BadRequest, ScopeRefused, Unauthorized
from gateway.limits.claims import TOKENS, Charge, Claim, claim
from gateway.receipts import Receipt
from gateway.spending import reserve
from providers import callers, snapshot
from providers.allowances import NAMED_ONLY, OTHER
from providers.targets import AliasCard, KeyCard, Target


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to forward: made by `admit` only, so whoever holds one has been authorised."""

    ask: Ask
    alias: AliasCard
    targets: tuple[Target, ...]  # in the order in which they are to be tried; at least one
    receipt: Receipt


async def admit(ask: Ask, receipt: Receipt) -> Grant:
    """Scope; places, requests and tokens of the limits; the budget; then the row that the request owes.

    What a step takes it pushes on `receipt.give_back`, so that a later refusal gives it back.
    """
    call = receipt.call
    key = call.key
    if key is None:
        raise Unauthorized("You didn't provide an API key.")
    config = snapshot.current()
    ask = receipt.ask = within_scope(key, ask, receipt)
    if ask.names_model and not call.provider:
        alias, targets = wayfinding.by_model(ask, key, config)
    else:
        alias, targets = wayfinding.by_place(ask, call, key, config)
    await take_limits(key, alias, ask, receipt)
    terms = await reserve(key, alias, targets, receipt, config)
    receipt.ask = terms.ask
    receipt.admit(alias.name)
    return Grant(terms.ask, alias, terms.targets, receipt)


def check_address(key: KeyCard, caller: str) -> None:
    """Raises Unauthorized for a call from outside the key's networks."""
    if not callers.is_within(caller, key.cidrs):
        raise Unauthorized("This key may not be used from this address.", code="ip_not_authorized")


def within_scope(key: KeyCard, ask: Ask, receipt: Receipt) -> Ask:
    """The ask with what its key prescribes: an end user to count under, a bound of the answer. Raises ScopeRefused."""
    if not may_use_endpoint(key, ask.endpoint):
        raise ScopeRefused(f"This key may not use the endpoint {ask.endpoint}.")
    if key.max_n is not None and ask.choices > key.max_n:
        raise BadRequest(f"`n` may be at most {key.max_n} with this key.", param="n", code="invalid_value")
    if key.max_tokens is not None:
        if ask.max_tokens is not None and ask.max_tokens > key.max_tokens:
            raise BadRequest(
                f"An answer may have at most {key.max_tokens} tokens with this key.",
                param="max_tokens" if "max_tokens" in ask.fields else BOUND[ask.endpoint],
                code="invalid_value",
            )
        ask = ask.bounded(key.max_tokens)
    if not ask.end_user and (key.end_user_limits or key.end_user_budget is not None):
        ask = replace(ask, end_user=callers.network(receipt.call.caller()))
    return ask


def may_use_endpoint(key: KeyCard, endpoint: str) -> bool:
    """A key without a list may use all but what must be named; what belongs to no family is for secret keys only."""
    if key.kind != "secret" and endpoint == OTHER:
        return False
    return endpoint in key.endpoints if key.endpoints else endpoint not in NAMED_ONLY


async def take_limits(key: KeyCard, alias: AliasCard, ask: Ask, receipt: Receipt) -> None:
    """All buckets of the request at once, or none. Raises RateLimited."""
    limiter = receipt.process.limiter
    wanted = claim(key, alias, ask.end_user, receipt.call.id, partial(limiter.estimates.tokens, key, ask))
    if not wanted:
        return
    verdict = await limiter.take(wanted)
    receipt.call.headers += verdict.headers()
    if verdict.refused is not None:
        raise verdict.error(ask.model or ask.endpoint)
    receipt.give_back.append(partial(give_back, wanted, receipt))


def give_back(taken: Claim, receipt: Receipt) -> None:
    """Of a request that was not admitted all; of one that was its place, and the tokens that it has not used."""
    limiter = receipt.process.limiter
    limiter.release(taken)
    key, usage = receipt.call.key, receipt.usage
    if usage is not None and key is not None and taken.counts_tokens():
        limiter.estimates.learn(key, usage.tokens_out)
    for charge in taken.charges:
        actual = used(charge, receipt)
        if actual != charge.cost:
            limiter.correct(taken, charge, actual)


def used(charge: Charge, receipt: Receipt) -> float:
    """What the charge should have been, now that the request is over."""
    if not receipt.admitted:
        return 0.0
    if charge.kind != TOKENS:
        return charge.cost
    if receipt.usage is not None:
        return float(receipt.usage.tokens_in + receipt.usage.tokens_out)
    return charge.cost if any(attempt.sent for attempt in receipt.attempts) else 0.0
