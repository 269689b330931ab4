"""What a key, a team or an alias may have: limits, budgets and scopes, read from a form, a file or a row (pure).

A setting has one name everywhere: the model's column, the configuration file's key and the form's field. Its value is
plain JSON: whole numbers (0 is no limit), texts, lists and mappings of texts.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec.structs import replace

from providers import aliases, origins
from providers.targets import BudgetCard, CacheCard, KeyCard, Limits, TeamCard

OTHER = "other"  # every operation that belongs to no family
# What only a key that names it may use: whoever may, can do whatever the provider's own credential can.
NAMED_ONLY = frozenset({"organization"})
# What names models where the gateway does not look, such as each line of a batch's file: a key that may not ask for
# every model has to name these too.
UNSEEN_MODELS = frozenset({"realtime", "batches", "evals", OTHER})
ENDPOINTS = (
    *("chat.completions", "completions", "embeddings", "responses", "messages", "moderations", "images"),
    *("audio.speech", "audio.transcriptions", "audio.translations", "videos", "realtime"),
    *("files", "uploads", "batches", "fine_tuning", "vector_stores", "conversations", "containers", "skills", "evals"),
    *("assistants", "threads", OTHER, *NAMED_ONLY),
)
# What a model answers and nobody keeps: all that a key can be good for that is in anybody's hands.
ANSWERING = frozenset(ENDPOINTS[: ENDPOINTS.index("videos")])
SECRET, PUBLISHABLE = KINDS = ("secret", "publishable")
PERIODS = ("day", "month", "total")
UNKNOWN_PRICE = ("allow", "block")
CACHE_MODES = ("off", "on", "opt_in")
CACHE_SCOPES = ("key", "team", "shared")
CACHE_STORES = ("memory", "shared")
KEY_CACHE = ("alias", "on", "off")
MAX_TTL = 30 * 86_400  # seconds
MAX_WHOLE = 2_000_000_000
MAX_ITEMS = 100
MAX_TAGS = 20
MAX_AMOUNT = Decimal(1_000_000_000)
PROVIDER_NAME = re.compile(r"[A-Za-z0-9_-]{0,60}")
AMOUNT = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?")


class Setting(msgspec.Struct, frozen=True):
    """`check` gives the value as it is stored, or raises ValueError with what is wrong; None means the default."""

    default: Any
    check: Callable[[Any], Any]


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_WHOLE:
        raise ValueError(f"must be a whole number from 0 to {MAX_WHOLE}")
    return value


def cap(value: Any) -> int:
    if not whole(value):
        raise ValueError("must be at least 1")
    return int(value)


def amount(text: Any) -> Decimal:
    """US dollars, more than 0, with at most six places."""
    if isinstance(text, bool) or not isinstance(text, str | int | float | Decimal):
        raise ValueError("must be an amount of US dollars such as 5.00")
    try:
        found = Decimal(str(text)) if AMOUNT.fullmatch(str(text)) else Decimal(0)
    except InvalidOperation:
        found = Decimal(0)
    if not 0 < found <= MAX_AMOUNT:
        raise ValueError(f"{text} is no amount of US dollars such as 5.00")
    return found


def budget(value: Any) -> str:
    """One or more of `5.00/month`, with commas between; "" for none. No period may stand there twice."""
    if not isinstance(value, str):
        raise ValueError("must be a text such as 5.00/month")
    found: dict[str, str] = {}
    for part in (part.strip() for part in value.split(",") if part.strip()):
        number, _, period = part.partition("/")
        if period not in PERIODS:
            raise ValueError(
                f"{part} has no period: write an amount and a period, such as 5.00/month, 1/day, 100/total"
            )
        amount(number)
        if period in found:
            raise ValueError(f"there are two budgets for the period {period}")
        found[period] = part
    return ", ".join(found.values())


def one_budget(value: Any) -> str:
    text = budget(value)
    if "," in text:
        raise ValueError("must be one budget such as 1.00/day")
    return text


def percentages(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > 10:
        raise ValueError("must be a list of at most 10 percentages such as [50, 80, 100]")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 1 <= item <= 1000:
            raise ValueError(f"{item} is no whole percentage from 1 to 1000")
    return sorted(set(value))


def endpoints(value: Any) -> list[str]:
    for name in _texts(value, "chat.completions"):
        if name not in ENDPOINTS:
            raise ValueError(f"there is no endpoint {name!r}; there are {', '.join(ENDPOINTS)}")
    return list(dict.fromkeys(value))


def networks(value: Any) -> list[str]:
    """Addresses and networks, in the form in which they are compared."""
    found: list[str] = []
    for text in _texts(value, "192.0.2.0/24"):
        try:
            found.append(str(ipaddress.ip_network(text.strip(), strict=False)))
        except ValueError:
            raise ValueError(f"{text!r} is no network such as 192.0.2.0/24 or 2001:db8::/32") from None
    return list(dict.fromkeys(found))


def web_origins(value: Any) -> list[str]:
    """Origins of pages and patterns of them, in the form in which they are compared."""
    return list(dict.fromkeys(origins.check(text) for text in _texts(value, "https://app.example.com")))


def tags(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_TAGS:
        raise ValueError(f"must be at most {MAX_TAGS} names with texts, such as {{cost_centre: '4711'}}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str) or not 0 < len(name) <= 64 or len(text) > 256:
            raise ValueError(f"the tag {name!r} must have a name of 1 to 64 and a text of at most 256 characters")
        if not (name.isprintable() and text.isprintable()):
            raise ValueError(f"the tag {name!r} holds control characters")
    return dict(value)


def provider_name(value: Any) -> str:
    if not isinstance(value, str) or not PROVIDER_NAME.fullmatch(value):
        raise ValueError("must be the name of a provider, such as openai")
    return value


def unknown_price(value: Any) -> str:
    """`allow`, `block`, or what each request of unknown price is charged, such as 0.05."""
    if value in UNKNOWN_PRICE:
        return str(value)
    try:
        amount(value)
    except ValueError:
        raise ValueError("must be allow, block, or the US dollars that such a request is charged, as 0.05") from None
    return str(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def one_of(*words: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        # YAML reads a bare `on` as true.
        word = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value
        if word not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return str(word)

    return check


def seconds(value: Any) -> int:
    if whole(value) > MAX_TTL:
        raise ValueError(f"must be at most {MAX_TTL} seconds, which is 30 days")
    return int(value)


def ttl(value: Any) -> int:
    if not seconds(value):
        raise ValueError("must be at least 1 second")
    return int(value)


def number(least: float, most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not least <= value <= most:
            raise ValueError(f"must be a number from {least:g} to {most:g}")
        return float(value)

    return check


def alias_name(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 200 or "*" in value or value != value.strip():
        raise ValueError("must be the name of an alias that makes embeddings, such as embed")
    return value


def _texts(value: Any, example: str) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be a list of at most {MAX_ITEMS} texts such as {example}")
    return value


LIMITS: Mapping[str, Setting] = {name: Setting(0, whole) for name in ("rpm", "burst", "tpm", "concurrency")}
BUDGET: Mapping[str, Setting] = {"budget": Setting("", budget), "budget_alerts": Setting([80, 100], percentages)}
CACHE: Mapping[str, Setting] = {
    "cache": Setting("off", one_of(*CACHE_MODES)),
    "cache_ttl": Setting(3600, ttl),
    "cache_stale": Setting(0, seconds),
    "cache_scope": Setting("key", one_of(*CACHE_SCOPES)),
    "cache_store": Setting("memory", one_of(*CACHE_STORES)),
    "cache_temperature": Setting(1.0, number(0, 2)),
    "cache_semantic": Setting("", alias_name),
    "cache_similarity": Setting(0.95, number(0.5, 1)),
}
CAPTURE: Mapping[str, Setting] = {"capture": Setting(0.0, number(0, 100))}  # percent of the requests
ALIAS: Mapping[str, Setting] = {**LIMITS, **CACHE, **CAPTURE, "adapters": Setting([], aliases.adapters)}
TEAM: Mapping[str, Setting] = {**LIMITS, **BUDGET}
KEY: Mapping[str, Setting] = {
    **TEAM,
    **CAPTURE,
    "end_user_rpm": Setting(0, whole),
    "end_user_tpm": Setting(0, whole),
    "end_user_concurrency": Setting(0, whole),
    "end_user_budget": Setting("", one_budget),
    "endpoints": Setting([], endpoints),
    "max_tokens": Setting(None, cap),
    "max_n": Setting(None, cap),
    "cidrs": Setting([], networks),
    "origins": Setting([], web_origins),
    "address_rpm": Setting(0, whole),
    "address_tpm": Setting(0, whole),
    "address_concurrency": Setting(0, whole),
    "tags": Setting({}, tags),
    "unknown_price": Setting("allow", unknown_price),
    "default_provider": Setting("", provider_name),
    "cache": Setting("alias", one_of(*KEY_CACHE)),
    "cache_ttl": Setting(0, seconds),
    "may_explain": Setting(False, flag),
}


def settled(known: Mapping[str, Setting], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Every setting of `known` as it is stored, its default where nothing is given; and what is wrong, by name."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, setting in known.items():
        value = given.get(name)
        values[name] = setting.default
        if value is not None:
            try:
                values[name] = setting.check(value)
            except ValueError as error:
                faults[name] = str(error)
    return values, faults


def checked(known: Mapping[str, Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    """The same, but the first fault is raised as ValueError."""
    values, faults = settled(known, given)
    for name, wrong in faults.items():
        raise ValueError(f"{name} {wrong}")
    return values


def faults_of_kind(kind: str, aliases: Collection[str], values: Mapping[str, Any]) -> dict[str, str]:
    """What a key of that kind lacks, by setting. A publishable one is seen by everybody, so that it names its bounds.

    `values` are settings as they are stored.
    """
    if kind != PUBLISHABLE:
        return {}
    faults: dict[str, str] = {}
    if not values["origins"]:
        faults["origins"] = "must name the pages that may use a publishable key, such as https://app.example.com"
    if not aliases or "*" in aliases:
        faults["aliases"] = "must be named one by one for a publishable key; * would open all that ever comes"
    if not values["endpoints"] or not ANSWERING.issuperset(values["endpoints"]):
        faults["endpoints"] = f"must be named for a publishable key, of {', '.join(sorted(ANSWERING))}"
    if values["max_tokens"] is None:
        faults["max_tokens"] = "must be given for a publishable key: the most output tokens of a request"
    if not values["address_rpm"]:
        faults["address_rpm"] = "must be given for a publishable key: what a script gets that has stolen it"
    return faults


def limits_of(values: Mapping[str, Any]) -> Limits:
    return Limits(values["rpm"], values["burst"], values["tpm"], values["concurrency"])


def cache_of(values: Mapping[str, Any]) -> CacheCard | None:
    """The card of an alias that keeps answers; None for one that does not."""
    if values["cache"] == "off":
        return None
    return CacheCard(
        opt_in=values["cache"] == "opt_in",
        ttl=values["cache_ttl"],
        stale=values["cache_stale"],
        scope=values["cache_scope"],
        shared=values["cache_store"] == "shared",
        temperature=values["cache_temperature"],
        semantic=values["cache_semantic"],
        similarity=values["cache_similarity"],
    )


def budgets_of(text: str, alerts: list[int], scope: str, owner: str = "") -> tuple[BudgetCard, ...]:
    """The cards of a checked text. A period has an account of its own, so that another period begins at nothing."""
    found: list[BudgetCard] = []
    for part in filter(None, text.split(", ")):
        number, _, period = part.partition("/")
        account = ":".join(filter(None, (scope, owner, period)))
        found.append(BudgetCard(account, scope, Decimal(number), period, tuple(alerts)))
    return tuple(found)


def team_card(team_id: str, name: str, values: Mapping[str, Any], *, enabled: bool) -> TeamCard:
    budgets = budgets_of(values["budget"], values["budget_alerts"], "team", team_id)
    return TeamCard(team_id, name, limits_of(values), enabled, budgets)


def allow(card: KeyCard, values: Mapping[str, Any], team: TeamCard | None) -> KeyCard:
    """The card with the settings of KEY put in; they are counted under the card's principal."""
    owner, alerts, price = card.principal, values["budget_alerts"], values["unknown_price"]
    end_user = budgets_of(values["end_user_budget"], alerts, "end_user", owner)
    charged = price not in UNKNOWN_PRICE
    return replace(
        card,
        limits=limits_of(values),
        end_user_limits=Limits(
            rpm=values["end_user_rpm"], tpm=values["end_user_tpm"], concurrency=values["end_user_concurrency"]
        ),
        team=team,
        endpoints=tuple(values["endpoints"]),
        max_tokens=values["max_tokens"],
        max_n=values["max_n"],
        cidrs=tuple(values["cidrs"]),
        origins=tuple(values["origins"]),
        address_limits=Limits(
            rpm=values["address_rpm"], tpm=values["address_tpm"], concurrency=values["address_concurrency"]
        ),
        tags=values["tags"],
        budgets=budgets_of(values["budget"], alerts, "key", owner),
        end_user_budget=end_user[0] if end_user else None,
        default_provider=values["default_provider"],
        unknown_price="charge" if charged else price,
        unknown_price_charge=Decimal(price) if charged else None,
        cache=values["cache"],
        cache_ttl=values["cache_ttl"],
        capture=values["capture"],
        may_explain=values["may_explain"],
    )
