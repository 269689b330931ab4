"""What a request may have, and from whom. The order of the steps is security, so it is code and not configuration."""

from functools import partial

import msgspec

from gateway import wayfinding
from gateway.caching.cache import Found
from gateway.caching.shares import Share
from gateway.errors import BLOCKED, BadRequest, EndUserBlocked, ScopeRefused, Unauthorized
from gateway.limits.claims import REQUESTS, TOKENS, Charge, Claim, claim
from gateway.parsing.asks import MAX_END_USER_CHARS, Ask, Form
from gateway.receipts import Receipt
from gateway.replies.relays import Reply
from gateway.spending import reserve
from providers import callers, snapshot
from providers.allowances import ANSWERING, NAMED_ONLY, PUBLISHABLE, SECRET, UNSEEN_MODELS
from providers.snapshot import Catalog
from providers.targets import AliasCard, KeyCard, Target

PLACES = "places"
BEFORE_CACHE = (PLACES, REQUESTS)  # an answer from the cache takes these, and no tokens


class Grant(msgspec.Struct, frozen=True):
    """Leave to forward: made by `admit` only, so whoever holds one has been authorised."""

    ask: Ask
    alias: AliasCard
    targets: tuple[Target, ...]  # in the order in which they are to be tried; at least one
    receipt: Receipt
    answer: Reply | None = None  # from the cache: no target is tried
    share: Share | None = None  # what is to be given the answer, where the alias keeps answers


async def admit(ask: Ask, receipt: Receipt) -> Grant:
    """Scope; places and requests; the cache; tokens; the budget; then the row that the request owes.

    What a step takes it pushes on `receipt.give_back`, so that a later refusal gives it back.
    """
    call = receipt.call
    key = call.key
    if key is None:
        raise Unauthorized("You didn't provide an API key.")
    config = snapshot.current()
    ask = receipt.ask = within_scope(key, ask, receipt)
    if config.end_users and ask.end_user:
        check_end_user(config, key, ask.end_user, call.issued_at)
    if ask.names_model and not call.provider and not ask.ids:
        alias, targets = wayfinding.by_model(ask, key, config)
    else:
        known = await receipt.process.stickies.find(ask.ids) if ask.ids else {}
        alias, targets = wayfinding.by_place(ask, call, key, config, known)
    if ask.form is Form.MESSAGES:
        targets = wayfinding.with_messages(ask, targets)
    share = None
    if alias.cache is None:
        await take_limits(receipt, claim_of(key, alias, ask, receipt))
    else:
        await take_limits(receipt, claim_of(key, alias, ask, receipt, *BEFORE_CACHE))
        found: Found = await receipt.process.cache.look(ask, alias, key, targets, receipt, config)
        if found.reply is not None:
            receipt.admit(alias.name)
            return Grant(ask, alias, targets, receipt, found.reply)
        receipt.ask, share = found.ask, found.share
        await take_limits(receipt, claim_of(key, alias, found.ask, receipt, TOKENS))
    terms = await reserve(key, alias, targets, receipt, config)
    receipt.ask = terms.ask
    receipt.admit(alias.name)
    return Grant(terms.ask, alias, terms.targets, receipt, share=share)


def check_address(key: KeyCard, caller: str) -> None:
    """Raises Unauthorized for a call from outside the key's networks."""
    if not callers.is_within(caller, key.cidrs):
        raise Unauthorized("This key may not be used from this address.", code="ip_not_authorized")


def check_end_user(config: Catalog, key: KeyCard, end_user: str, issued_at: float) -> None:
    """Raises EndUserBlocked; of a token that is at an end it is not told, as of a key, why it is refused."""
    if config.refuses(key.principal, end_user):
        raise EndUserBlocked(BLOCKED)
    if issued_at and config.refuses(key.principal, end_user, issued_at):
        raise Unauthorized("Incorrect API key provided. Ask the application for a new token.")


def named_end_user(key: KeyCard, name: bytes) -> str:
    """Whom the holder of a secret key acts for, by its header. Raises BadRequest."""
    if key.kind != SECRET:
        raise BadRequest("`x-gateway-end-user` may be sent with a secret key only.", param="x-gateway-end-user")
    try:
        text = name.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not 0 < len(text) <= MAX_END_USER_CHARS or not text.isprintable():
        raise BadRequest(
            f"`x-gateway-end-user` must have 1 to {MAX_END_USER_CHARS} printable characters in UTF-8.",
            param="x-gateway-end-user",
        )
    return text


def within_scope(key: KeyCard, ask: Ask, receipt: Receipt) -> Ask:
    """The ask with what its key prescribes: an end user to count under, a bound of the answer. Raises ScopeRefused."""
    if not may_use_endpoint(key, ask.endpoint):
        raise ScopeRefused(f"This key may not use the endpoint {ask.endpoint}.")
    if key.kind != SECRET:
        only_answers(key, ask)
    if key.max_n is not None and max(ask.choices, ask.drafts) > key.max_n:
        name = "n" if ask.choices > key.max_n else "best_of"
        raise BadRequest(f"`{name}` may be at most {key.max_n} with this key.", param=name, code="invalid_value")
    if key.max_tokens is not None and ask.max_tokens is not None and ask.max_tokens > key.max_tokens:
        raise BadRequest(
            f"An answer may have at most {key.max_tokens} tokens with this key.",
            param="max_tokens" if "max_tokens" in ask.fields else ask.bound,
            code="invalid_value",
        )
    end_user = receipt.call.end_user or ask.end_user
    if not end_user and (key.end_user_limits or key.end_user_budget is not None):
        end_user = callers.network(receipt.call.caller())
    return ask.prescribed(key.max_tokens, end_user)


def only_answers(key: KeyCard, ask: Ask) -> None:
    """What is kept at a provider is kept there for all: of it, who holds a key that anybody can have gets nothing."""
    if not ask.names_model or ask.method != "POST" or ask.endpoint not in ANSWERING:
        raise ScopeRefused("This key may only be used for requests that name a model and are answered by it.")
    if key.kind == PUBLISHABLE and ask.form is Form.PLAIN:
        raise ScopeRefused("This key may only be used for operations whose answers the gateway can bound.")


def may_use_endpoint(key: KeyCard, endpoint: str) -> bool:
    """A key without a list may use all but what must be named."""
    if key.endpoints:
        return endpoint in key.endpoints
    return endpoint not in NAMED_ONLY and (endpoint not in UNSEEN_MODELS or "*" in key.aliases)


def claim_of(key: KeyCard, alias: AliasCard, ask: Ask, receipt: Receipt, *kinds: str) -> Claim:
    """What the request takes of its limits; of those kinds only, where some are named."""
    estimates = receipt.process.limiter.estimates
    address = callers.network(receipt.call.caller()) if key.address_limits else ""
    wanted = claim(key, alias, ask.end_user, receipt.call.id, partial(estimates.tokens, key, ask), address)
    if kinds:
        wanted.charges = [charge for charge in wanted.charges if charge.kind in kinds]
        wanted.slots = wanted.slots if PLACES in kinds else []
    return wanted


async def take_limits(receipt: Receipt, wanted: Claim) -> None:
    """All buckets of the claim at once, or none. Raises RateLimited."""
    if not wanted:
        return
    verdict = await receipt.process.limiter.take(wanted)
    receipt.call.headers += verdict.headers()
    if verdict.refused is not None:
        raise verdict.error(receipt.ask.model or receipt.ask.endpoint)
    receipt.give_back.append(partial(give_back, wanted, receipt))


def give_back(taken: Claim, receipt: Receipt) -> None:
    """Of a request that was not admitted all; of one that was its place, and the tokens that it has not used."""
    limiter = receipt.process.limiter
    limiter.release(taken)
    key, usage = receipt.call.key, receipt.usage
    if usage is not None and key is not None and not receipt.is_kept and taken.counts_tokens():
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
    if receipt.is_kept:
        return 0.0
    if receipt.usage is not None:
        return float(receipt.usage.tokens_in + receipt.usage.tokens_out)
    return charge.cost if any(attempt.sent for attempt in receipt.attempts) else 0.0
