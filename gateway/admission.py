"""What a request may have, and from whom. The order of the steps is security, so it is code and not configuration."""

from dataclasses import dataclass

from gateway import routing
from gateway.asks import Ask
from gateway.errors import Overloaded, Unauthorized, UnknownModel
from gateway.receipts import Receipt
from providers import snapshot
from providers.targets import AliasCard, Target


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to forward: made by `admit` only, so whoever holds one has been authorised."""

    ask: Ask
    alias: AliasCard
    targets: tuple[Target, ...]  # in the order in which they are to be tried; at least one
    receipt: Receipt


async def admit(ask: Ask, receipt: Receipt) -> Grant:
    """Scope, then the routes. Raises UnknownModel for a name that is not there and for one that the key may not use:
    which of the two it is tells a stranger what the house has."""
    key = receipt.call.key
    if key is None:
        raise Unauthorized("You didn't provide an API key.")
    config = snapshot.current()
    match = config.match(ask.model) if key.may_use(ask.model) else None
    if match is None:
        raise UnknownModel(f"The model `{ask.model}` does not exist or you do not have access to it.")
    alias, _ = match
    targets = config.targets(alias, ask.model, routing.order(alias))
    if not targets:
        raise Overloaded(
            f"The model `{ask.model}` has no route that is enabled and has a credential.",
            code="no_route",
            retry_after=30,
        )
    receipt.admit(alias.name)
    return Grant(ask, alias, targets, receipt)
