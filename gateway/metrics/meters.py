"""What a request adds to the numbers: once when it is settled, once when its answer is over, and nothing in between."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway import errors
from gateway.access import upstream_seconds
from gateway.attempts import Attempt
from gateway.metrics import families as f
from gateway.metrics.pages import Page, Series, Shelf
from gateway.process import Process
from gateway.receipts import Call, Receipt
from ledger.entries import Settled
from ledger.money import units
from providers import snapshot

DIRECTORY = "metrics"  # inside the data directory
# A pattern lets clients choose names, and with them how often something is remembered here.
REMEMBERED = 4096
OTHER = "*"
ENDS = {
    "ok": "ok",
    "cancelled": "cancelled",
    "pending": "cancelled",
    "upstream_timeout": "timeout",
    "upstream_unreachable": "unreachable",
    "upstream_broken": "broken",
    "upstream_invalid_response": "invalid",
}


class Route(msgspec.Struct, frozen=True):
    """The labels of a request: each is a name of the configuration."""

    endpoint: str
    alias: str
    provider: str
    model: str
    stream: str


class Spots(msgspec.Struct):
    """Where the series of one route begin."""

    route: Route
    outcomes: dict[str, int]
    tokens: dict[str, int]
    cost: int
    unpriced: int
    duration: int
    first_byte: int
    per_token: int
    overhead: int


class Meters:
    """One a process; made by the engine where anything reads the numbers, and None elsewhere."""

    def __init__(self, data_dir: Path | None, wall: Callable[[], float]) -> None:
        directory = data_dir / DIRECTORY if data_dir is not None else None
        self.page, self.shelf, self.wall = Page(directory), Shelf(directory), wall
        self._spots: dict[tuple[str, str, str, str, bool], Spots] = {}
        self._broken: set[str] = set()  # providers of which something has been out of order

    def settled(self, receipt: Receipt, line: Settled) -> None:
        """A request that was admitted is over."""
        key = (line.endpoint, line.alias, line.provider, line.upstream_model, line.stream)
        spots = self._spots.get(key) or self._place(key)
        page = self.page
        values = page.values
        outcome = spots.outcomes.get(line.outcome)
        if outcome is None:
            route = spots.route
            names = (route.endpoint, route.alias, route.provider, route.model, line.outcome)
            outcome = spots.outcomes[line.outcome] = page.slot(f.REQUESTS, *names)
        values[outcome] += 1
        for name, count in tokens_of(line):
            if count:
                values[spots.tokens.get(name) or self._tokens(spots, name)] += count
        if line.cost is None:
            values[spots.unpriced] += 1
        elif line.cost:
            values[spots.cost] += units(line.cost)
        now = receipt.process.clock()
        total = now - receipt.call.started
        page.observe(f.DURATION, spots.duration, micros(total))
        page.observe(f.OVERHEAD, spots.overhead, micros(max(0.0, total - upstream_seconds(receipt, now))))
        if receipt.ttft is not None:
            page.observe(f.FIRST_BYTE, spots.first_byte, micros(receipt.ttft))
            if line.stream and line.tokens_out > 1:
                page.observe(f.PER_TOKEN, spots.per_token, micros((total - receipt.ttft) / (line.tokens_out - 1)))
        for attempt in receipt.attempts:
            values[page.slot(f.ATTEMPTS, attempt.target.provider.name, end_of(attempt))] += 1
        if receipt.cache:
            values[page.slot(f.CACHE, spots.route.alias, receipt.cache)] += 1
            if receipt.saved:
                values[page.slot(f.SAVED, spots.route.alias)] += units(receipt.saved)

    def answered(self, call: Call) -> None:
        """An answer of the API is over, of a request that was admitted or of one that was not."""
        page, error = self.page, call.error
        page.values[page.slot(f.RESPONSES, str(call.status))] += 1
        if error is None:
            return
        receipt, alias, provider = call.receipt, "", ""
        if receipt is not None and receipt.line is not None:
            line = receipt.line
            key = (line.endpoint, line.alias, line.provider, line.upstream_model, line.stream)
            route = (self._spots.get(key) or self._place(key)).route
            alias, provider = route.alias, route.provider
        page.values[page.slot(f.ERRORS, class_of(error), alias, provider)] += 1
        if reason := refused_by(error):
            page.values[page.slot(f.REFUSALS, reason)] += 1

    def look(self, process: Process, pending: int, away: bool) -> None:
        """The gauges, once a second."""
        age = max(0.0, self.wall() - snapshot.current().loaded_at)
        streams = sum(1 for receipt in process.receipts if receipt.streams)
        for family, value in (
            (f.OPEN, len(process.receipts)),
            (f.STREAMS, streams),
            (f.WAITING, len(process.upstream.slots.waiters)),
            (f.JOURNAL, pending),
            (f.AWAY, int(away)),
            (f.BUFFERED, process.memory.held),
            (f.CATALOG_AGE, micros(age)),
            (f.PROCESSES, 1),
        ):
            self.page.values[self.page.slot(family)] = value
        # Of a provider that is in order again it says 0.
        open_ = Counter(watch.target.provider.name for watch in process.breakers.open.values())
        self._broken |= open_.keys()
        for name in self._broken:
            self.page.values[self.page.slot(f.BREAKERS, name)] = open_[name]

    def total(self) -> Series:
        """Of all processes of this machine; reads files."""
        return self.shelf.total(self.page)

    def close(self) -> None:
        self.page.close()

    def _place(self, key: tuple[str, str, str, str, bool]) -> Spots:
        if len(self._spots) >= REMEMBERED:
            self._spots.clear()
        route, page = route_of(*key), self.page
        names = (route.alias, route.provider, route.model)
        spots = self._spots[key] = Spots(
            route,
            {},
            {},
            cost=page.slot(f.COST, *names),
            unpriced=page.slot(f.UNPRICED, *names),
            duration=page.slot(f.DURATION, route.endpoint, route.alias, route.provider, route.stream),
            first_byte=page.slot(f.FIRST_BYTE, route.alias, route.provider),
            per_token=page.slot(f.PER_TOKEN, route.alias, route.provider),
            overhead=page.slot(f.OVERHEAD, route.endpoint),
        )
        return spots

    def _tokens(self, spots: Spots, kind: str) -> int:
        route = spots.route
        found = spots.tokens[kind] = self.page.slot(f.TOKENS, route.alias, route.provider, route.model, kind)
        return found


def route_of(endpoint: str, alias: str, provider: str, model: str, stream: bool) -> Route:
    """The labels: what the configuration does not hold, because a client or another time said it, is `*`."""
    config = snapshot.current()
    card = config.patterns.get(alias[:-1]) if alias.endswith("*") else config.exact.get(alias)
    known = card is not None and any(route.model == model for route in card.routes)
    return Route(
        endpoint,
        alias if card is not None or not alias else OTHER,
        provider,
        model if known or not model else OTHER,
        "true" if stream else "false",
    )


def tokens_of(line: Settled) -> tuple[tuple[str, int], ...]:
    return (
        ("input", line.tokens_in),
        ("output", line.tokens_out),
        ("cached", line.tokens_cached),
        ("reasoning", line.tokens_reasoning),
        ("audio", line.tokens_audio_in + line.tokens_audio_out),
    )


def end_of(attempt: Attempt) -> str:
    """One of few words: what an attempt says of itself may be the provider's own code."""
    if attempt.outcome in ENDS:
        return ENDS[attempt.outcome]
    return "refused" if attempt.status else "failed"


def class_of(error: errors.GatewayError) -> str:
    return type(error).__name__


def refused_by(error: errors.GatewayError) -> str:
    """Which limit it was; "" for what is no refusal of a limit."""
    if isinstance(error, errors.BudgetExhausted):
        return "budget"
    return error.type if isinstance(error, errors.RateLimited) else ""


def micros(seconds: float) -> int:
    return int(seconds * 1_000_000)
