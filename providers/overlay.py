"""Configuration that lies over the database's: the file of GATEWAY_CONFIG, and the variables OPENAI_SERVER_URL,
OPENAI_SERVER_KEY and OPENAI_PROXY_KEY. It is read anew at each load and never becomes rows."""

import os
from collections.abc import Mapping
from hashlib import blake2b

import msgspec
from django.conf import settings

from providers import allowances, keys, peppers, quirks, references, timeouts
from providers.addresses import AddressPolicy
from providers.configfile import AliasEntry, ConfigError, Configuration, KeyEntry, ProviderEntry, read
from providers.draft import ProviderValues, settled
from providers.secret import Secret
from providers.targets import AliasCard, BudgetCard, CredentialCard, KeyCard, ProviderCard, RouteCard, TeamCard

SERVER_NAME = "openai-server"
SERVER_URL, SERVER_KEY, PROXY_KEY = "OPENAI_SERVER_URL", "OPENAI_SERVER_KEY", "OPENAI_PROXY_KEY"
MIN_KEY_CHARS = 20
MIN_KEY_VARIETY = 8
# What stands in documents in a key's place: anyone can read it there.
PUBLISHED = ("example", "changeme", "change-me", "change_me", "placeholder", "replace", "your-", "your_", "sk-1234")


class Problem(msgspec.Struct, frozen=True):
    """One part that cannot be used. `weak`: a key that is easily guessed, which development lets through."""

    place: str
    wrong: str
    weak: bool = False


class Overlay(msgspec.Struct, frozen=True):
    """Cards for the catalog, sorted by name. A provider without any of its credentials is there, but not enabled."""

    providers: tuple[ProviderCard, ...] = ()
    aliases: tuple[AliasCard, ...] = ()
    keys: tuple[KeyCard, ...] = ()
    gateway_budgets: tuple[BudgetCard, ...] = ()
    problems: tuple[Problem, ...] = ()


def load(environ: Mapping[str, str] = os.environ) -> Overlay:
    """Read the file and the variables; raises ConfigError where the file or an address is wrong."""
    policy = address_policy()
    found = _file(policy)
    maker = _Maker(environ)
    maker.teams = {
        entry.name: allowances.team_card(_id("team", entry.name), entry.name, entry.settings, enabled=entry.enabled)
        for entry in found.teams
    }
    providers = [maker.provider(entry) for entry in found.providers]
    aliases = [_alias_card(entry) for entry in found.aliases if entry.enabled]
    client_keys = [maker.key(entry) for entry in found.keys]
    client_keys.append(maker.proxy_key())
    server = maker.server(policy)
    if server:
        if any(card.name == SERVER_NAME for card in providers):
            raise ConfigError([f"providers.{SERVER_NAME}: is the name of the provider that {SERVER_URL} makes"])
        providers.append(server)
        # The file's own alias for every name holds, where it has one.
        if not any(card.name == "*" for card in aliases):
            aliases.append(AliasCard(_id("alias", "*"), "*", (RouteCard(server.id),)))
    return Overlay(
        tuple(sorted(providers, key=lambda card: card.name)),
        tuple(sorted(aliases, key=lambda card: card.name)),
        tuple(sorted((card for card in client_keys if card), key=lambda card: card.name)),
        gateway_budgets(),
        tuple(maker.problems),
    )


def gateway_budgets() -> tuple[BudgetCard, ...]:
    """The budgets of GATEWAY_BUDGET, of all requests together; raises ConfigError."""
    try:
        text, alerts = allowances.budget(settings.GATEWAY_BUDGET), allowances.BUDGET["budget_alerts"].default
    except ValueError as error:
        raise ConfigError([f"GATEWAY_BUDGET: {error}"]) from None
    return allowances.budgets_of(text, alerts, "gateway")


def address_policy() -> AddressPolicy:
    """The policy of the settings; raises ConfigError for an entry that cannot be read."""
    try:
        return AddressPolicy(settings.GATEWAY_PRIVATE_UPSTREAMS, development=settings.DEVELOPMENT)
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def weakness(token: str) -> str:
    """Why a key from elsewhere protects nothing; "" where no reason is known."""
    if len(token) < MIN_KEY_CHARS:
        return f"is shorter than {MIN_KEY_CHARS} characters"
    if any(word in token.lower() for word in PUBLISHED) or len(set(token)) < MIN_KEY_VARIETY:
        return "is an example that anyone can read or guess"
    return ""


def _file(policy: AddressPolicy) -> Configuration:
    path: str = settings.GATEWAY_CONFIG
    try:
        return read(path, policy, database=not settings.GATEWAY_STATELESS) if path else Configuration()
    except ConfigError as error:
        raise ConfigError([f"GATEWAY_CONFIG: {problem}" for problem in error.problems]) from None


class _Maker:
    """Makes cards, resolving references on the way, and collects what cannot be used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[Problem] = []
        self.teams: dict[str, TeamCard] = {}

    def resolve(self, reference: str, place: str) -> Secret | None:
        try:
            return references.resolve(reference, self.environ)
        except references.BadReference as error:
            self.problems.append(Problem(place, str(error)))
            return None

    def is_set(self, name: str) -> bool:
        return any(self.environ.get(variable, "").strip() for variable in (name, f"{name}_FILE"))

    def provider(self, entry: ProviderEntry) -> ProviderCard:
        credentials: list[CredentialCard] = []
        for name, reference in sorted(entry.credentials.items()):
            secret = self.resolve(reference, f"providers.{entry.name}.credentials.{name}")
            if secret:
                credentials.append(CredentialCard(_id("credential", f"{entry.name}/{name}"), name, secret))
        # Without any of its credentials it would only send requests that are refused.
        usable = bool(credentials) or not entry.credentials
        return _provider_card(entry.name, entry.values, tuple(credentials), enabled=entry.enabled and usable)

    def server(self, policy: AddressPolicy) -> ProviderCard | None:
        """The provider of OPENAI_SERVER_URL and OPENAI_SERVER_KEY; the key may be missing, as for Ollama."""
        url: str = settings.OPENAI_SERVER_URL
        has_key = self.is_set(SERVER_KEY)
        if not url:
            if has_key:
                self.problems.append(Problem(SERVER_KEY, f"is set, but {SERVER_URL} is not: it is used for nothing"))
            return None
        values, faults = settled(ProviderValues(base_url=url), policy)
        if faults:
            raise ConfigError([f"{SERVER_URL}: {fault.message}" for fault in faults])
        secret = self.resolve(f"env:{SERVER_KEY}", SERVER_KEY) if has_key else None
        credentials = (CredentialCard(_id("credential", SERVER_NAME), "main", secret),) if secret else ()
        return _provider_card(SERVER_NAME, values, credentials, enabled=bool(credentials) or not has_key)

    def proxy_key(self) -> KeyCard | None:
        if not self.is_set(PROXY_KEY):
            return None
        return self._client_key(PROXY_KEY, KeyEntry(PROXY_KEY, existing=f"env:{PROXY_KEY}"))

    def key(self, entry: KeyEntry) -> KeyCard | None:
        place = f"keys.{entry.name}"
        if not entry.existing:
            wrong = "has no value here: give `existing: env:NAME`, or import the file and make the key in the admin"
            self.problems.append(Problem(place, wrong))
            return None
        return self._client_key(place, entry)

    def _client_key(self, place: str, entry: KeyEntry) -> KeyCard | None:
        secret = self.resolve(entry.existing, place)
        if secret is None:
            return None
        token = secret.reveal()
        parsed = keys.parse(token)
        if isinstance(parsed, keys.Malformed):
            self.problems.append(Problem(place, "is damaged, or holds characters that no key has"))
            return None
        if (parsed.kind if parsed else "sk") != keys.PREFIX_OF[entry.kind]:
            self.problems.append(Problem(place, f"is no {entry.kind} key by its form"))
            return None
        wrong = weakness(token)
        if wrong:
            self.problems.append(Problem(place, wrong, weak=True))
            if not settings.DEVELOPMENT:
                return None
        pepper_id, pepper = peppers.primary()
        card = KeyCard(
            id=parsed.id if parsed else _id("key", entry.name),
            name=entry.name,
            pepper_id=pepper_id,
            digest=keys.digest(pepper, token),
            aliases=entry.aliases,
            enabled=entry.enabled,
            expires_at=entry.expires_at.timestamp() if entry.expires_at else None,
            kind=entry.kind,
        )
        return allowances.allow(card, entry.settings, self.teams.get(entry.team))


def _provider_card(
    name: str, values: ProviderValues, credentials: tuple[CredentialCard, ...], *, enabled: bool
) -> ProviderCard:
    return ProviderCard(
        id=_id("provider", name),
        name=name,
        dialect=values.dialect,
        base_url=values.base_url,
        options=values.options,
        quirks=quirks.parse(values.quirks),
        timeouts=timeouts.parse(values.timeouts),
        credentials=credentials,
        enabled=enabled,
    )


def _alias_card(entry: AliasEntry) -> AliasCard:
    routes = tuple(RouteCard(_id("provider", route.provider), route.model, route.weight) for route in entry.routes)
    return AliasCard(
        _id("alias", entry.name),
        entry.name,
        routes,
        entry.strategy,
        entry.retry_after_timeout,
        entry.early_200,
        limits=allowances.limits_of(entry.settings),
        cache=allowances.cache_of(entry.settings),
        adapters=tuple(entry.settings["adapters"]),
    )


def _id(kind: str, name: str) -> str:
    """An id that stays the same from load to load and is as short as a row's: 23 characters."""
    return f"config-{blake2b(f'{kind}/{name}'.encode(), digest_size=8).hexdigest()}"
