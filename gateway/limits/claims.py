"""What one request takes of its limits, and where they stand afterwards."""

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import msgspec

from gateway.errors import RateLimited
from gateway.limits import gcra
from gateway.limits.gcra import Rate
from gateway.parsing.asks import Ask, Form
from providers.targets import AliasCard, KeyCard, Limits

REQUESTS, TOKENS = "requests", "tokens"
NAME_CHARS = 128  # of an end user, in the name of a bucket, which has 200
SLOT_WAIT = 1.0  # seconds after which to ask again for a place; when one comes free nobody knows


class Slot(msgspec.Struct):
    """One of `limit` places for requests under way."""

    bucket: str
    limit: int
    scope: str


class Charge(msgspec.Struct):
    """`cost` units of a bucket; `until` is the bucket's `tat` after it was taken, by the process's clock."""

    bucket: str
    rate: Rate
    cost: float
    kind: str
    scope: str
    until: float = 0.0

    def correction(self, actual: float, now: float) -> float:
        """Seconds by which the bucket's `tat` moves, where the charge should have been `actual`."""
        more = actual - self.cost
        if more < 0:
            more = -gcra.refundable(self.rate, self.until, now, -more)
        return more * self.rate.interval


class Claim(msgspec.Struct):
    """All or nothing. In the order in which they are looked at: places, requests, tokens."""

    holder: str  # the request id
    slots: list[Slot] = msgspec.field(default_factory=list)
    charges: list[Charge] = msgspec.field(default_factory=list)
    alone: "Claim | None" = None  # this process's share of it, taken while the shared store was away

    def __bool__(self) -> bool:
        return bool(self.slots or self.charges)

    def counts_tokens(self) -> bool:
        return bool(self.charges) and self.charges[-1].kind == TOKENS


class Standing(msgspec.Struct):
    """`remaining` units may pass at once; in `reset` seconds the bucket is full."""

    limit: int
    remaining: int
    reset: float


class Verdict(msgspec.Struct):
    """`refused` is what was not to be had, None where all was taken; the standings are the tightest of each kind."""

    refused: Slot | Charge | None = None
    wait: float = 0.0
    requests: Standing | None = None
    tokens: Standing | None = None

    def note(self, kind: str, standing: Standing) -> None:
        known = self.requests if kind == REQUESTS else self.tokens
        if known is not None and known.remaining <= standing.remaining:
            return
        if kind == REQUESTS:
            self.requests = standing
        else:
            self.tokens = standing

    def headers(self) -> list[tuple[bytes, bytes]]:
        """https://platform.openai.com/docs/guides/rate-limits, the section about headers."""
        found: list[tuple[bytes, bytes]] = []
        for kind, standing in ((b"requests", self.requests), (b"tokens", self.tokens)):
            if standing is not None:
                found += [
                    (b"x-ratelimit-limit-" + kind, b"%d" % standing.limit),
                    (b"x-ratelimit-remaining-" + kind, b"%d" % standing.remaining),
                    (b"x-ratelimit-reset-" + kind, duration(standing.reset).encode()),
                ]
        return found

    def error(self, model: str) -> RateLimited:
        refused = self.refused
        if isinstance(refused, Charge):
            return RateLimited(
                f"Rate limit reached for `{model}` on {refused.kind} per min of the {refused.scope}: "
                f"limit {refused.rate.limit}. Please try again in {duration(self.wait)}.",
                kind=refused.kind,
                wait=self.wait,
            )
        assert refused is not None
        return RateLimited(
            f"Too many requests at once for `{model}`: the {refused.scope} may have {refused.limit} under way.",
            kind=REQUESTS,
            wait=SLOT_WAIT,
        )


def standing(rate: Rate, tat: float, now: float) -> Standing:
    return Standing(rate.limit, max(0, math.floor(gcra.room(rate, tat, now))), max(tat - now, 0.0))


def claim(
    key: KeyCard, alias: AliasCard, end_user: str, holder: str, tokens: Callable[[], int], address: str = ""
) -> Claim:
    """What a request of that key to that alias takes. `tokens` estimates all that it will use where it counts."""
    made = Claim(holder)
    scopes = [(key.limits, "key:" + key.principal, "key")] if key.limits else []
    if key.team is not None and key.team.limits:
        scopes.append((key.team.limits, "team:" + key.team.id, "team"))
    if end_user and key.end_user_limits:
        scopes.append((key.end_user_limits, f"user:{key.principal}:{short(end_user)}", "end user"))
    if address and key.address_limits:
        scopes.append((key.address_limits, f"addr:{key.principal}:{address}", "address"))
    if alias.limits:
        scopes.append((alias.limits, "alias:" + alias.id, "model"))
    estimate, spent = -1, list[Charge]()
    for limits, name, scope in scopes:
        requests, minute = rates(limits)
        if limits.concurrency:
            made.slots.append(Slot(name, limits.concurrency, scope))
        if requests is not None:
            made.charges.append(Charge(name + ":r", requests, 1.0, REQUESTS, scope))
        if minute is not None:
            estimate = tokens() if estimate < 0 else estimate
            spent.append(Charge(name + ":t", minute, min(float(estimate), minute.burst), TOKENS, scope))
    made.charges += spent
    return made


def short(name: str) -> str:
    """A name that the column of buckets takes whole; a longer one is told from others by its digest."""
    return name if len(name) <= NAME_CHARS else hashlib.blake2b(name.encode(), digest_size=20).hexdigest()


@lru_cache(maxsize=10_000)
def rates(limits: Limits) -> tuple[Rate | None, Rate | None]:
    """Of requests and of tokens. A minute's tokens may be used at once, as with OpenAI; of requests only the burst."""
    requests = gcra.rate(limits.rpm, limits.burst or max(1, limits.rpm // 10)) if limits.rpm else None
    return requests, gcra.rate(limits.tpm, limits.tpm) if limits.tpm else None


def duration(seconds: float) -> str:
    """As Go writes it, to the millisecond, rounded up: `12ms`, `1s`, `8.64s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(seconds * 1000 - gcra.EPSILON)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds > 0 else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    shown = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{shown}"
    return f"{minutes}m{shown}" if minutes else shown


BYTES_PER_TOKEN = 3  # of a request's body: on the high side for every language
FIRST_GUESS = 256.0  # tokens of an answer, before a key has had any
WEIGHT = 0.1  # of the newest answer in the average
MAX_KEYS = 10_000


class Estimates:
    """How many tokens a call will use: its prompt by its bytes, its answer by its bound or by the key's average."""

    def __init__(self) -> None:
        self._averages: dict[str, float] = {}

    def tokens(self, key: KeyCard, ask: Ask) -> int:
        if ask.form is Form.PLAIN and not ask.names_model:
            return 0  # what is kept, listed or taken away
        average = self._averages.get(key.principal, FIRST_GUESS)
        return -(-ask.size // BYTES_PER_TOKEN) + ask.output_bound(round(average))

    def learn(self, key: KeyCard, tokens_out: int) -> None:
        average = self._averages.pop(key.principal, None)
        if average is None:
            if len(self._averages) >= MAX_KEYS:
                del self._averages[next(iter(self._averages))]
            average = float(tokens_out)
        self._averages[key.principal] = average + (tokens_out - average) * WEIGHT
