"""What the hot path sees of the configuration: frozen values without relations, so that no query happens by chance."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from providers.secret import Secret


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `connect` covers DNS, TCP and TLS; `gap` is the longest silence between two chunks of a stream."""

    connect: float = 5.0
    pool: float = 2.0
    first_byte: float = 60.0
    gap: float = 60.0
    total: float = 600.0


class ErrorRule(msgspec.Struct, frozen=True):
    """What a refusal with a certain status is to the client; what is "" or 0 stays as the provider has it."""

    status: int = 0
    code: str = ""
    type: str = ""


class Quirks(msgspec.Struct, frozen=True):
    """Declared differences of a provider (providers/quirks.py): what its row says, and nothing else."""

    # Of requests (providers/edits.py).
    rename: Mapping[str, str] = msgspec.field(default_factory=dict)
    drop: frozenset[str] = frozenset()
    set: Mapping[str, Any] = msgspec.field(default_factory=dict)
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    allow: Mapping[str, frozenset[str]] = msgspec.field(default_factory=dict)  # by path, such as /chat/completions
    refuse: Mapping[str, str] = msgspec.field(default_factory=dict)  # a field, and what its sender is told
    token_ids: bool = True  # whether a prompt may be given as numbers
    lists: frozenset[str] = frozenset()  # fields whose single text becomes a list
    roles: Mapping[str, str] = msgspec.field(default_factory=dict)
    message_drop: frozenset[str] = frozenset()
    paths: Mapping[str, str] = msgspec.field(default_factory=dict)  # "" for an endpoint that is not there
    adapter: str = ""  # how a model is called that has an adapter on it; "" where there are none
    # Of answers.
    finish: Mapping[str, str] = msgspec.field(default_factory=dict)
    fixups: frozenset[str] = frozenset()
    reasoning: str = ""  # the field in which reasoning is to come; "" leaves it where it is
    usage_path: tuple[str, ...] = ()
    errors: Mapping[int, ErrorRule] = msgspec.field(default_factory=dict)
    error_paths: tuple[tuple[str, ...], ...] = ()
    asleep: Mapping[int, str] = msgspec.field(default_factory=dict)  # a status, and what stands in its body


NO_QUIRKS = Quirks()


class CredentialCard(msgspec.Struct, frozen=True):
    id: str
    name: str
    secret: Secret


class ProviderCard(msgspec.Struct, frozen=True):
    """One upstream. `base_url` is normalised: scheme, host, path, no trailing slash; "" for the echo dialect."""

    id: str
    name: str
    dialect: str
    base_url: str = ""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    quirks: Quirks = msgspec.field(default_factory=Quirks)
    timeouts: Timeouts = msgspec.field(default_factory=Timeouts)
    credentials: tuple[CredentialCard, ...] = ()
    enabled: bool = True


class RouteCard(msgspec.Struct, frozen=True):
    """One way to serve an alias; `model` "" means the base model, or under a pattern the rest of the name."""

    provider_id: str
    model: str = ""
    weight: int = 1


class Limits(msgspec.Struct, frozen=True):
    """Requests and tokens a minute, and requests at once; 0 is no limit. `burst` 0 is a tenth of `rpm`, at least 1."""

    rpm: int = 0
    burst: int = 0
    tpm: int = 0
    concurrency: int = 0

    def __bool__(self) -> bool:
        return bool(self.rpm or self.tpm or self.concurrency)


class BudgetCard(msgspec.Struct, frozen=True):
    """An amount of US dollars for a period; `id` names the account that spending is counted in.

    Of an end user's budget it is the beginning of the account's name: each end user has an account of its own.
    """

    id: str
    scope: str  # key, team, end_user, gateway
    amount: Decimal
    period: str  # day, month, total
    alert_at: tuple[int, ...] = ()  # percent of the amount, rising


class TeamCard(msgspec.Struct, frozen=True):
    """Keys that share limits and budgets."""

    id: str
    name: str
    limits: Limits = msgspec.field(default_factory=Limits)
    enabled: bool = True
    budgets: tuple[BudgetCard, ...] = ()


class CacheCard(msgspec.Struct, frozen=True):
    """How an alias keeps its answers; times are in seconds. An alias that keeps none has no card."""

    opt_in: bool = False  # only for keys that say `on`
    ttl: int = 3600
    stale: int = 0  # how long after that it may still stand in for a provider that fails
    scope: str = "key"  # who is served what one key was answered: the key alone, its team, or everyone ("shared")
    shared: bool = False  # in the store of all processes too, and not in this one's memory alone
    temperature: float = 1.0  # requests with a higher one are left out
    semantic: str = ""  # the alias that makes embeddings; "": only equal requests are hits
    similarity: float = 0.95  # the least cosine at which two questions count as the same


class AliasCard(msgspec.Struct, frozen=True):
    """A name that clients may ask for: exact, or a pattern with one `*` at its end."""

    id: str
    name: str
    routes: tuple[RouteCard, ...] = ()
    strategy: str = "ordered"  # or "weighted"
    retry_after_timeout: bool = False
    early_200: bool = False
    created: int = 0  # unix seconds, for GET /v1/models
    limits: Limits = msgspec.field(default_factory=Limits)
    cache: CacheCard | None = None
    adapters: tuple[str, ...] = ()  # patterns of what may stand behind `name:`
    capture: float = 0.0  # percent of its requests whose bodies are kept


class KeyCard(msgspec.Struct, frozen=True):
    """A client key as the hot path knows it; `digest` is the HMAC under the pepper `pepper_id`.

    `principal` is the id that limits and budgets are counted under: the key's own, or, of a key that took another's
    place, its predecessor's.
    """

    id: str
    name: str
    pepper_id: str
    digest: bytes
    aliases: tuple[str, ...] = ("*",)  # patterns, compared with the name that the client asks for
    enabled: bool = True
    expires_at: float | None = None  # unix seconds, wall time
    kind: str = "secret"  # or publishable; of a token that such a key has minted ephemeral, of an issuer's signed
    principal: str = ""
    repepper: bool = False  # its digest is to be made anew, under the pepper for writing
    limits: Limits = msgspec.field(default_factory=Limits)
    end_user_limits: Limits = msgspec.field(default_factory=Limits)  # of each end user of this key
    team: TeamCard | None = None
    endpoints: tuple[str, ...] = ()  # such as chat.completions; empty: all
    max_tokens: int | None = None  # the highest that may be asked for, and what is meant where nothing is
    max_n: int | None = None
    cidrs: tuple[str, ...] = ()  # where calls may come from; empty: anywhere
    tags: Mapping[str, str] = msgspec.field(default_factory=dict)
    budgets: tuple[BudgetCard, ...] = ()
    end_user_budget: BudgetCard | None = None
    address_limits: Limits = msgspec.field(default_factory=Limits)  # of each address that calls come from
    origins: tuple[str, ...] = ()  # of pages that may use it, or, of a secret key, the tokens that it mints
    default_provider: str = ""  # for requests that name neither a model nor a provider; "": the oldest alias's
    unknown_price: str = "allow"  # or "block", or "charge"
    unknown_price_charge: Decimal | None = None  # US dollars a request, where unknown_price is "charge"
    cache: str = "alias"  # as the alias says; or "on", or "off"
    cache_ttl: int = 0  # seconds; 0: as the alias says
    capture: float = 0.0  # percent of its requests whose bodies are kept
    may_explain: bool = False  # x-gateway-explain tells of routes, prices and limits

    def __post_init__(self) -> None:
        if not self.principal:
            msgspec.structs.force_setattr(self, "principal", self.id)

    def is_live(self, now: float) -> bool:
        return (
            self.enabled
            and (self.expires_at is None or now < self.expires_at)
            and (self.team is None or self.team.enabled)
        )

    def may_use(self, model: str) -> bool:
        # A loop: any() over a generator takes three times as long for the usual one.
        for pattern in self.aliases:  # noqa: SIM110
            if pattern == "*" or matches(pattern, model):
                return True
        return False


class EndUserCard(msgspec.Struct, frozen=True):
    """What the operator says of one end user; tokens made before that moment (unix seconds) are at an end."""

    blocked: bool = False
    tokens_before: float = 0.0


class Target(msgspec.Struct, frozen=True):
    """Where one attempt goes: the provider, the credential to use there, and the model's name there."""

    provider: ProviderCard
    model: str
    credential: CredentialCard | None = None

    @property
    def secret(self) -> str:
        return self.credential.secret.reveal() if self.credential else ""


def matches(pattern: str, name: str) -> bool:
    """`fast` matches itself, `mistral/*` everything that begins with `mistral/`, `*` every name, the empty one too."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
