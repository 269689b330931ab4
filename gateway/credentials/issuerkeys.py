"""The public keys of issuers: fetched when a token wants them, kept, and looked at again while tokens come.

An issuer that is down costs nothing for a day; one that does not answer, or too much, costs one call a minute.
"""

import asyncio
import time
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
import structlog

from gateway.errors import GatewayError
from gateway.upstream.client import Upstream
from providers.issuers import IssuerCard
from providers.targets import Timeouts

if TYPE_CHECKING:
    from gateway.credentials.jose import PublicKey

log = structlog.get_logger("gateway")

AT_MOST_EVERY = 60.0  # seconds between two calls to an issuer, whatever tokens say
LOOKED_AT = 600.0  # seconds after which keys that are in use are looked at again
GOOD_FOR = 86_400.0  # seconds that keys are trusted which could not be looked at again
SECONDS = 5.0  # for the whole call
MAX_BYTES = 256 * 1024
MAX_SETS = 1000
TIMEOUTS = Timeouts(connect=3.0, pool=1.0)


class Absence(Enum):
    """Why there is no key."""

    UNKNOWN = "the issuer does not have it"
    ASK = "the issuer may be asked for it"
    AWAY = "the issuer could not be asked, and must not be again yet"


class KeySet(msgspec.Struct, eq=False):
    """Wall times, in unix seconds: the environment may be frozen."""

    keys: "dict[str, PublicKey]" = msgspec.field(default_factory=dict)
    read_at: float = 0.0
    tried_at: float = 0.0
    fetching: "asyncio.Task[None] | None" = None

    def may_try(self, now: float) -> bool:
        return abs(now - self.tried_at) >= AT_MOST_EVERY


class IssuerKeys:
    """One a process; memory only, but for `fetch` and the look that `find` begins beside the call."""

    def __init__(self, upstream: Callable[[], Upstream]) -> None:
        self._upstream = upstream
        self._sets: dict[tuple[str, str], KeySet] = {}

    def find(self, card: IssuerCard, key_id: str) -> "PublicKey | Absence":
        """Without a `key_id` the only key that there is."""
        known, now = self._set(card), time.time()
        is_good = abs(now - known.read_at) < GOOD_FOR
        if is_good and known.keys and abs(now - known.read_at) >= LOOKED_AT and known.may_try(now):
            self._begin(known, card)
        if is_good:
            key = known.keys.get(key_id)
            if key is None and not key_id and len(known.keys) == 1:
                key = next(iter(known.keys.values()))
            if key is not None:
                return key
        if known.fetching is not None or known.may_try(now):
            return Absence.ASK
        return Absence.UNKNOWN if is_good else Absence.AWAY

    def has(self, card: IssuerCard, key: "PublicKey") -> bool:
        """Whether the issuer still had this very key when it was looked at last."""
        known = self._sets.get((card.id, card.jwks_url))
        return known is not None and any(one is key for one in known.keys.values())

    async def fetch(self, card: IssuerCard) -> None:
        """Ask the issuer, together with all who ask meanwhile; nothing where it has been asked within the minute."""
        known = self._set(card)
        if known.fetching is None and known.may_try(time.time()):
            self._begin(known, card)
        if known.fetching is not None:
            await asyncio.shield(known.fetching)

    async def close(self) -> None:
        tasks = [known.fetching for known in self._sets.values() if known.fetching is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _set(self, card: IssuerCard) -> KeySet:
        place = card.id, card.jwks_url
        known = self._sets.get(place)
        if known is None:
            if len(self._sets) >= MAX_SETS:
                del self._sets[next(iter(self._sets))]
            known = self._sets[place] = KeySet()
        return known

    def _begin(self, known: KeySet, card: IssuerCard) -> None:
        known.tried_at = time.time()
        known.fetching = asyncio.create_task(self._fetch(known, card))

    async def _fetch(self, known: KeySet, card: IssuerCard) -> None:
        try:
            found = await self._read(card)
        except (GatewayError, TimeoutError, ValueError, RecursionError) as error:
            log.warning("issuer_keys_not_read", issuer=card.name, error=type(error).__name__)
            return
        finally:
            known.fetching = None
        # The same key stays the same object, so that what was proved by it stays proved.
        known.keys = {
            name: old if (old := known.keys.get(name)) is not None and old.made_of == key.made_of else key
            for name, key in found.items()
        }
        known.read_at = time.time()

    async def _read(self, card: IssuerCard) -> "dict[str, PublicKey]":
        from gateway.credentials import jose

        async with asyncio.timeout(SECONDS):
            headers = [("accept", "application/json")]
            reply = await self._upstream().send(card.jwks_url, headers, b"", TIMEOUTS, method="GET")
            try:
                if reply.status != 200:
                    raise ValueError(f"status {reply.status}")
                data = await reply.read(MAX_BYTES)
            finally:
                await reply.aclose()
        found = jose.public_keys(data)
        if not found:
            raise ValueError("no keys")
        return found
