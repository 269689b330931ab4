"""Where the answers to one request lie: their names, who may have them, and how old they may be."""

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Protocol

from gateway.caching.identity import Namer
from gateway.caching.kept import Facts, Kept
from gateway.caching.memory import MemoryStore
from gateway.caching.wishes import Wish
from gateway.parsing.asks import Ask
from ledger.usage import Usage
from providers import purging
from providers.snapshot import Catalog
from providers.targets import AliasCard, KeyCard, Target

BEHIND = 60.0  # seconds by which another machine's clock may be ahead of ours


class SharedStore(Protocol):
    """Answers that all processes find. What goes wrong there is a miss, and never an error."""

    def get(self, names: list[bytes]) -> Awaitable[list[Kept | None]]: ...

    def put(self, name: bytes, kept: Kept, seconds: float) -> None: ...

    async def tend(self) -> None: ...

    async def close(self) -> None: ...


class Shelf:
    def __init__(
        self,
        memory: MemoryStore,
        shared: SharedStore | None,
        wall: Callable[[], float],
        alias: AliasCard,
        key: KeyCard,
        config: Catalog,
        wish: Wish,
        forwarded: list[tuple[str, str]],
    ) -> None:
        assert alias.cache is not None
        self.memory = memory
        self.shared = shared if alias.cache.shared else None
        self.wall = wall
        self.alias, self.key, self.wish = alias, key, wish
        self._purges, self._forwarded = config.purges, forwarded
        self.kept_for = float((key.cache_ttl or alias.cache.ttl) + alias.cache.stale)

    @property
    def embedder(self) -> str:
        assert self.alias.cache is not None
        return self.alias.cache.semantic

    def namer(self, ask: Ask, target: Target) -> Namer:
        return Namer(ask, self.alias, self.key, target, self._purges, self._forwarded)

    def facts(self, kind: str, target: Target, usage: Usage, cost: Decimal | None) -> Facts:
        author = self.key.principal
        mark = self._purges.get(purging.name_of(purging.KEY, author), "")
        return Facts(self.wall(), kind, author, mark, target.model, cost=cost, usage=usage)

    async def find(self, name: bytes) -> Kept | None:
        """The answer of that name, fresh or stale; None where there is none of use."""
        kept = self.memory.get(name)
        if kept is None and self.shared is not None:
            [kept] = await self._from_shared([name])
        return kept if kept is not None and self._is_of_use(kept) else None

    async def find_all(self, names: list[bytes]) -> list[Kept | None]:
        found = [self.memory.get(name) for name in names]
        if self.shared is not None and None in found:
            missing = [name for name, kept in zip(names, found, strict=True) if kept is None]
            more = dict(zip(missing, await self._from_shared(missing), strict=True))
            found = [more.get(name) if kept is None else kept for name, kept in zip(names, found, strict=True)]
        return [kept if kept is not None and self._is_of_use(kept) else None for kept in found]

    async def _from_shared(self, names: list[bytes]) -> list[Kept | None]:
        assert self.shared is not None
        found = await self.shared.get(names)
        for name, kept in zip(names, found, strict=True):
            if kept is not None and self._is_of_use(kept):
                self.memory.put(name, kept)
        return found

    def keep(self, name: bytes, kept: Kept) -> None:
        self.memory.put(name, kept)
        if self.shared is not None:
            self.shared.put(name, kept, self.kept_for)

    def is_fresh(self, kept: Kept) -> bool:
        return kept.age(self.wall()) <= self.wish.fresh

    def _is_of_use(self, kept: Kept) -> bool:
        facts = kept.facts
        return (
            facts.at <= self.wall() + BEHIND
            and kept.age(self.wall()) <= self.wish.fresh + self.wish.stale
            and facts.mark == self._purges.get(purging.name_of(purging.KEY, facts.author), "")
        )
