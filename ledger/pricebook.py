"""The prices as requests read them: from memory, found beforehand for every route, later ones found off the loop once.

An operator's own price always wins; among several the one for that alias, then that provider, then the longest pattern
of the model, then the latest beginning. What has none is looked for in the built-in table.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from operator import is_
from typing import Final

import msgspec

from ledger import builtin
from ledger.prices import Price
from providers.snapshot import Catalog
from providers.targets import ProviderCard, matches

MAX_KNOWN = 10_000
BUILTIN_SECONDS = 60.0  # how long a built-in price is taken for the present one: some change by the hour


class Verdict(Enum):
    """MISSING: nobody has looked yet."""

    MISSING = "missing"


MISSING: Final = Verdict.MISSING
Place = tuple[str, str, str]  # a provider's id, the model's name there, the alias


class OwnPrice(msgspec.Struct, frozen=True):
    """An operator's price: where it holds ("" is everywhere), and when (unix seconds)."""

    price: Price
    alias: str = ""
    provider: str = ""
    model: str = "*"
    starts: float = 0.0
    ends: float = float("inf")

    def holds_for(self, provider: str, model: str, alias: str) -> bool:
        return self.alias in ("", alias) and self.provider in ("", provider) and matches(self.model, model)

    @property
    def rank(self) -> tuple[bool, bool, bool, int, float]:
        exact = not self.model.endswith("*")
        return bool(self.alias), bool(self.provider), exact, len(self.model), self.starts


class Card(msgspec.Struct, frozen=True):
    """All prices of one place: the operator's, the first that holds is meant, and the built-in one."""

    own: tuple[OwnPrice, ...]
    builtin: Price | None

    def at(self, when: float) -> Price | None:
        for row in self.own:
            if row.starts <= when < row.ends:
                return row.price
        return self.builtin


Rows = Callable[[], "Sequence[OwnPrice] | None"]


class PriceBook:
    """`find` is for the event loop. `refresh` and `resolve` block: they are called on the SQL thread.

    `rows` gives the operator's prices, or None where they are what they were.
    """

    def __init__(
        self, rows: Rows | None = None, *, wall: Callable[[], float] = time.time, capacity: int = MAX_KNOWN
    ) -> None:
        self._rows = rows
        self._wall = wall
        self._capacity = capacity
        self._own: tuple[OwnPrice, ...] = ()
        self._cards: dict[Place, Card] = {}
        self._seen: tuple[object, ...] = (None, None, None)
        self._looked_at = 0.0

    def find(self, provider: ProviderCard, model: str, alias: str, when: float) -> Price | Verdict | None:
        """The price at that time (unix seconds); None if it is unknown, MISSING if it has to be resolved first."""
        card = self._cards.get((provider.id, model, alias))
        return MISSING if card is None else card.at(when)

    def resolve(self, places: Sequence[tuple[ProviderCard, str, str]]) -> dict[Place, Card]:
        """Look for the prices of (provider, model, alias), which are known from then on, and give them."""
        found: dict[Place, Card] = {}
        self._add(found, places)
        self._trim(len(found))
        self._cards.update(found)
        return found

    def refresh(self, catalog: Catalog) -> None:
        """Read the operator's prices if they have changed; look for those of routes that are new. Errors are raised,
        and what was known stays."""
        rows = self._rows() if self._rows is not None else None
        seen = (catalog.providers, catalog.exact, catalog.patterns)
        due = abs(self._wall() - self._looked_at) >= BUILTIN_SECONDS
        if rows is None and not due and all(map(is_, seen, self._seen)):
            return
        self._take_own(rows)
        places = {(card.id, model, alias): card for card, model, alias in routes(catalog)}
        asked = {key: catalog.providers[key[0]] for key in tuple(self._cards) if key[0] in catalog.providers}
        cards: dict[Place, Card] = {}
        self._add(cards, ((card, key[1], key[2]) for key, card in {**asked, **places}.items()))
        self._cards, self._seen, self._looked_at = cards, seen, self._wall()

    def read_own(self) -> None:
        """Read the operator's prices alone, for `card`."""
        self._take_own(self._rows() if self._rows is not None else None)

    def _take_own(self, rows: Sequence[OwnPrice] | None) -> None:
        if rows is not None:
            self._own = tuple(sorted(rows, key=lambda row: row.rank, reverse=True))

    def _add(self, cards: dict[Place, Card], places: Iterable[tuple[ProviderCard, str, str]]) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        for provider, model, alias in places:
            cards[provider.id, model, alias] = self.card(provider.name, provider.base_url, model, alias, now)

    def _trim(self, new: int) -> None:
        """Names come from clients, under patterns: those that were found first make way."""
        while self._cards and len(self._cards) + new > self._capacity:
            self._cards.pop(next(iter(self._cards)), None)

    def card(self, provider: str, base_url: str, model: str, alias: str, now: datetime) -> Card:
        own = tuple(row for row in self._own if row.holds_for(provider, model, alias))
        return Card(own, builtin.price(base_url, model, now))


def routes(catalog: Catalog) -> Iterable[tuple[ProviderCard, str, str]]:
    """Every (provider, model, alias) that is known without a request: those of patterns are not."""
    for alias in catalog.aliases():
        for route in alias.routes:
            provider = catalog.providers.get(route.provider_id)
            if provider is not None and (route.model or not alias.name.endswith("*")):
                yield provider, route.model, alias.name
