"""The frozen configuration that requests read, and the one place where the current one hangs (pure)."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from providers import dialects
from providers.aliases import is_adapter
from providers.edits import with_adapter
from providers.issuers import IssuerCard
from providers.targets import AliasCard, BudgetCard, EndUserCard, KeyCard, ProviderCard, RouteCard, Target, matches


class Catalog(msgspec.Struct, frozen=True):
    """One consistent state of the configuration; a request that holds it sees no other."""

    providers: Mapping[str, ProviderCard] = msgspec.field(default_factory=dict)  # by id
    exact: Mapping[str, AliasCard] = msgspec.field(default_factory=dict)  # by name
    patterns: Mapping[str, AliasCard] = msgspec.field(default_factory=dict)  # by what stands before the `*`
    adapted: Mapping[str, AliasCard] = msgspec.field(default_factory=dict)  # by name: those that take adapters
    # The lengths that those prefixes have, longest first: a look-up a length, however many patterns there are.
    lengths: tuple[int, ...] = ()
    keys: Mapping[bytes, KeyCard] = msgspec.field(default_factory=dict)  # keys from elsewhere, by digest
    keys_by_id: Mapping[str, KeyCard] = msgspec.field(default_factory=dict)  # the same
    gateway_budgets: tuple[BudgetCard, ...] = ()  # of all requests together
    origins: frozenset[str] = frozenset()  # of the pages that any key lets in, and patterns of them
    compromised: frozenset[str] = frozenset()  # ids of client keys whose running requests are to be ended
    # By `iss` and `aud` of their tokens.
    issuers: Mapping[tuple[str, str], IssuerCard] = msgspec.field(default_factory=dict)
    # Marks of what was thrown out of the cache, by name.
    purges: Mapping[str, str] = msgspec.field(default_factory=dict)
    # Of whom the operator has something to say, by key and name; the key is "" where it holds under every one.
    end_users: Mapping[tuple[str, str], EndUserCard] = msgspec.field(default_factory=dict)
    loaded_at: float = 0.0  # unix seconds, wall time, of the last look at the database; 0: never

    def match(self, model: str) -> tuple[AliasCard, str] | None:
        """The alias for a requested name, and the rest of the name under its pattern ("" for an exact one).

        The exact name wins, then one with an adapter behind it, then the longest pattern, `*` last, which takes the
        empty name too. What stands behind the colon of an alias with adapters belongs to that alias or to none.
        """
        alias = self.exact.get(model)
        if alias is not None:
            return alias, ""
        if self.adapted and (alias := self.adapted.get(model.rpartition(":")[0])) is not None:
            adapter = model[len(alias.name) + 1 :]
            allowed = is_adapter(adapter) and any(matches(pattern, adapter) for pattern in alias.adapters)
            return (alias, "") if allowed else None
        for length in self.lengths:
            alias = self.patterns.get(model[:length]) if length <= len(model) else None
            if alias is not None:
                return alias, model[length:]
        return None

    def targets(
        self, alias: AliasCard, requested: str, routes: Sequence[RouteCard] | None = None
    ) -> tuple[Target, ...]:
        """Where the alias leads, in the order of `routes` (the alias's own by default), without what cannot be used.

        A route without a model means the upstream's base model "", or under a pattern the rest of the requested name.
        With an adapter only those providers serve whose row says how they take one.
        """
        is_pattern = alias.name.endswith("*")
        rest = requested[len(alias.name) - 1 :] if is_pattern else ""
        adapter = requested[len(alias.name) + 1 :] if alias.adapters and not is_pattern else ""
        found = []
        for route in alias.routes if routes is None else routes:
            provider = self.providers.get(route.provider_id)
            if provider is None or not is_usable(provider):
                continue
            model = with_adapter(provider.quirks, route.model, adapter) if adapter else route.model or rest
            if model is not None:
                credential = provider.credentials[0] if provider.credentials else None
                found.append(Target(provider, model, credential))
        return tuple(found)

    def refuses(self, principal: str, end_user: str, issued_at: float = 0.0) -> bool:
        """Whether that end user of that key is blocked, or its token of that moment is at an end."""
        for place in ((principal, end_user), ("", end_user)):
            card = self.end_users.get(place)
            if card is not None and (card.blocked or 0.0 < issued_at < card.tokens_before):
                return True
        return False

    def aliases(self) -> tuple[AliasCard, ...]:
        """Every alias, patterns too, by name."""
        return tuple(sorted((*self.exact.values(), *self.patterns.values()), key=lambda alias: alias.name))


def build(
    providers: Iterable[ProviderCard],
    aliases: Iterable[AliasCard],
    keys: Iterable[KeyCard],
    loaded_at: float,
    *,
    gateway_budgets: Iterable[BudgetCard] = (),
    compromised: Iterable[str] = (),
    purges: Mapping[str, str] | None = None,
    origins: Iterable[str] = (),
    end_users: Mapping[tuple[str, str], EndUserCard] | None = None,
    issuers: Iterable[IssuerCard] = (),
) -> Catalog:
    """A catalog of those cards; where two have the same id, name or digest, the later one stays."""
    held = tuple(keys)
    exact: dict[str, AliasCard] = {}
    patterns: dict[str, AliasCard] = {}
    for alias in aliases:
        if alias.name.endswith("*"):
            patterns[alias.name[:-1]] = alias
        else:
            exact[alias.name] = alias
    return Catalog(
        providers={card.id: card for card in providers},
        exact=exact,
        patterns=patterns,
        adapted={name: alias for name, alias in exact.items() if alias.adapters},
        lengths=tuple(sorted({len(prefix) for prefix in patterns}, reverse=True)),
        keys={card.digest: card for card in held},
        keys_by_id={card.id: card for card in held},
        loaded_at=loaded_at,
        gateway_budgets=tuple(gateway_budgets),
        compromised=frozenset(compromised),
        end_users=end_users or {},
        purges=purges or {},
        issuers={(card.issuer, card.audience): card for card in issuers},
        origins=frozenset(origins).union(*(card.origins for card in held)),
    )


def is_usable(provider: ProviderCard) -> bool:
    """Whether a request may go there: enabled, of a known dialect, with a credential where the dialect wants one."""
    if not provider.enabled:
        return False
    dialect = dialects.registry().get(provider.dialect)
    return dialect is not None and (bool(provider.credentials) or not dialect.needs_credential)


_current = Catalog()


def current() -> Catalog:
    """The newest catalog; a request asks once and keeps what it got."""
    return _current


def install(catalog: Catalog) -> None:
    """Replace the current catalog, for requests that begin from now on."""
    global _current
    _current = catalog
