"""Which provider a request goes to: the model's; without one the client's choice, the ids' own, or the key's.

A client can choose among the providers that its key may use, and no other: those to which some alias leads that the key
may ask for. Of a provider that is not among them it is not told whether it is there.
"""

from collections.abc import Iterator, Mapping

from gateway.errors import BadRequest, NotFound, Overloaded, UnknownModel
from gateway.parsing.asks import Ask, Form
from gateway.parsing.places import AZURE
from gateway.receipts import Call
from gateway.routing import order as routing
from gateway.routing.stickies import Sticky
from providers import dialects
from providers.snapshot import Catalog, is_usable
from providers.targets import AliasCard, KeyCard, ProviderCard, Target, matches

NO_ALIAS = AliasCard("", "")  # without a model there is no alias, and none of an alias's limits


def unknown_model(model: str) -> UnknownModel:
    return UnknownModel(f"The model `{model}` does not exist or you do not have access to it.")


def no_route(what: str) -> Overloaded:
    return Overloaded(f"{what} has no route that is enabled and has a credential.", code="no_route", retry_after=30)


def by_model(ask: Ask, key: KeyCard, config: Catalog) -> tuple[AliasCard, tuple[Target, ...]]:
    """The alias of the model that the client names, and its targets in the order in which they are to be tried.

    Raises UnknownModel for a name that is not there and for one that the key may not use: which of the two it is tells
    a stranger what the house has.
    """
    match = config.match(ask.model) if key.may_use(ask.model) else None
    if match is None:
        raise unknown_model(ask.model)
    alias, _ = match
    targets = config.targets(alias, ask.model, routing.order(alias))
    if not targets:
        raise no_route(f"The model `{ask.model}`")
    return alias, targets


def with_messages(ask: Ask, targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """Those of the targets that have Anthropic's API. Raises NotFound where none has."""
    kept = tuple(target for target in targets if has_messages(target.provider))
    if not kept:
        raise NotFound(f"No provider of `{ask.model or ask.endpoint}` offers the Messages API.", code="no_messages_api")
    return kept


def has_messages(provider: ProviderCard) -> bool:
    return dialects.get(provider.dialect).messages_base(provider) is not None


def by_place(
    ask: Ask, call: Call, key: KeyCard, config: Catalog, known: Mapping[str, Sticky]
) -> tuple[AliasCard, tuple[Target, ...]]:
    """The same for a request that names a provider, or ids, or no model; `known` are those of the ids that are known.

    In this order: the provider that the client names, the one that has the ids, the model's, the key's own. Raises
    NotFound for a provider or an id that is not there or is another key's.
    """
    named = _named(call, key, config)
    sticky = _sticky(ask, key, known)
    holder = None
    if sticky is not None:
        holder = next((card for card in usable_by(key, config) if card.id == sticky.provider), None)
    if ask.names_model:
        # Azure's clients say `/openai/` of everything: of a model it names no provider of ours.
        only = holder if call.place.is_azure else named or holder
        return _with_model(ask, key, config, only, sticky)
    provider = named or holder or _default(ask, key, config)
    if provider is None:
        raise NotFound(f"Invalid URL ({ask.method} /v1{ask.path})")
    if not is_usable(provider):
        raise no_route(f"The provider `{provider.name}`")
    credential = provider.credentials[0] if provider.credentials else None
    return NO_ALIAS, (_as_before(Target(provider, "", credential), sticky),)


def _with_model(
    ask: Ask, key: KeyCard, config: Catalog, only: ProviderCard | None, sticky: Sticky | None
) -> tuple[AliasCard, tuple[Target, ...]]:
    alias, targets = by_model(ask, key, config)
    if only is None:
        return alias, targets
    kept = tuple(_as_before(target, sticky) for target in targets if target.provider.id == only.id)
    if not kept and sticky is not None and only.id == sticky.provider:
        raise BadRequest(
            f"What this request names by its id is at the provider `{only.name}`, which does not serve `{ask.model}`.",
            param="model",
            code="provider_mismatch",
        )
    if not kept:
        raise unknown_model(ask.model)
    return alias, kept


def _sticky(ask: Ask, key: KeyCard, known: Mapping[str, Sticky]) -> Sticky | None:
    """Where the ids are. Raises NotFound for another key's, and BadRequest where they are at more than one provider."""
    found: Sticky | None = None
    for name in ask.ids:
        sticky = known.get(name)
        if sticky is None:
            continue
        if sticky.owner != key.principal:
            raise NotFound(f"There is no `{name}`, or you do not have access to it.", code="not_found")
        if found is not None and found.provider != sticky.provider:
            raise BadRequest(f"`{name}` is at another provider than what is named before it.", code="provider_mismatch")
        found = found or sticky
    return found


def _as_before(target: Target, sticky: Sticky | None) -> Target:
    """The target under the credential that made what is named: another one may belong to another account."""
    if sticky is not None and sticky.provider == target.provider.id:
        for credential in target.provider.credentials:
            if credential.id == sticky.credential:
                return Target(target.provider, target.model, credential)
    return target


def _named(call: Call, key: KeyCard, config: Catalog) -> ProviderCard | None:
    if not call.provider:
        return None
    for provider in usable_by(key, config):
        if provider.name == call.provider:
            return provider
    if call.provider == AZURE and call.place.is_azure:
        return None
    raise NotFound(
        f"The provider `{call.provider[:60]}` does not exist or you do not have access to it.", code="unknown_provider"
    )


def _default(ask: Ask, key: KeyCard, config: Catalog) -> ProviderCard | None:
    """The one that the key says, else that of the first alias that it may use: the oldest row, the first in a file."""
    for provider in usable_by(key, config):
        if key.default_provider and provider.name != key.default_provider:
            continue
        if ask.form is not Form.MESSAGES or has_messages(provider):
            return provider
    return None


def usable_by(key: KeyCard, config: Catalog) -> Iterator[ProviderCard]:
    """The providers to which some alias leads that the key may ask for, those of the oldest alias first."""
    seen: set[str] = set()
    for alias in sorted(opened_to(key, config), key=lambda alias: alias.created):
        for route in alias.routes:
            provider = config.providers.get(route.provider_id)
            if provider is not None and provider.id not in seen:
                seen.add(provider.id)
                yield provider


def opened_to(key: KeyCard, config: Catalog) -> list[AliasCard]:
    """The aliases under which the key has at least one name to ask for."""
    every = [*config.exact.values(), *config.patterns.values()]
    if "*" in key.aliases:
        return every
    found: dict[str, AliasCard] = {}
    for pattern in key.aliases:
        if not pattern.endswith("*"):
            match = config.match(pattern)
            if match is not None:
                found[match[0].id] = match[0]
            continue
        for alias in every:
            if alias.name.endswith("*"):
                # Two patterns have names in common where one's beginning is the other's.
                meets = alias.name[:-1].startswith(pattern[:-1]) or pattern[:-1].startswith(alias.name[:-1])
            else:
                meets = matches(pattern, alias.name) or (bool(alias.adapters) and pattern.startswith(f"{alias.name}:"))
            if meets:
                found[alias.id] = alias
    return list(found.values())
