"""The desk that every call passes: which kind of credential it carries, and whom that stands for."""

import asyncio
import time
from collections.abc import Callable

from gateway.credentials.ephemeral import Ephemeral
from gateway.credentials.identity import Identity, Kind
from gateway.credentials.issuerkeys import IssuerKeys
from gateway.credentials.kept import Publishable, Secret, Sql
from gateway.credentials.signed import BEGINNING, Signed
from gateway.errors import Unauthorized
from gateway.upstream.client import Upstream
from gateway.wrongkeys import WrongKeys
from providers import callers, keys, snapshot
from providers.keyring import MISSING, UNKNOWN, Verdict

MAX_COUNTING = 100  # wrong keys that wait for being counted; beyond it they are refused uncounted
NO_KEY = "You didn't provide an API key. Send it in the Authorization header: `Authorization: Bearer KEY`."
WRONG_KEY = "Incorrect API key provided: {}. Ask whoever runs this gateway for a key."


class Desk:
    """One a process. `soon` runs a job for which a call waits on the SQL thread, `sql` one for which nobody does.

    `upstream` is there once the process has begun.
    """

    def __init__(self, soon: Sql, sql: Sql, upstream: Callable[[], Upstream], *, stateless: bool) -> None:
        self.wrong_keys = WrongKeys()
        self._soon, self._sql = soon, sql
        self._stateless = stateless
        self._secret = Secret(soon, sql)
        self._kinds: dict[str, Kind] = {"pk-gw-": Publishable(soon, sql), "ek-gw-": Ephemeral(soon)}
        self._issuer_keys = IssuerKeys(upstream)
        self._signed = Signed(soon, self._issuer_keys, self._secret)
        self._counting: set[asyncio.Task[None]] = set()

    def kind_of(self, token: str) -> Kind:
        """By the token's first characters; what nobody else knows is a secret key."""
        if token[:3] == BEGINNING and snapshot.current().issuers:
            return self._signed
        return self._kinds.get(token[: keys.PREFIX_CHARS], self._secret)

    async def authenticate(self, token: str, caller: Callable[[], str] = str) -> Identity:
        """Whom the token stands for, from memory; one look-up for one that this process has not seen.

        `caller` gives the address that the call comes from. Raises Unauthorized, or RateLimited where too many wrong
        keys have come from there.
        """
        if not token:
            raise Unauthorized(NO_KEY)
        kind = self.kind_of(token)
        found: Identity | Verdict | None = kind.find(token)
        if found is MISSING and not self._stateless:
            found = await self._learn(kind, token, callers.network(caller()))
        elif found is UNKNOWN and (kind is self._signed or keys.is_foreign(token)) and not self._stateless:
            self._count_guess(callers.network(caller()))
        if not isinstance(found, Identity) or not found.key.is_live(time.time()):
            raise Unauthorized(WRONG_KEY.format(masked(token)))
        if found.key.repepper:
            kind.used(token, found)
        return found

    async def close(self) -> None:
        """Wait for what nobody else waits for."""
        await asyncio.gather(*self._counting, return_exceptions=True)
        await self._secret.close()
        await self._issuer_keys.close()

    async def _learn(self, kind: Kind, token: str, address: str) -> Identity | None:
        self.wrong_keys.check(address)
        found = await kind.learn(token)
        if found is None:
            await self._soon(self.wrong_keys.count, address)
        return found

    async def _count(self, address: str) -> None:
        await self._sql(self.wrong_keys.count, address)

    def _count_guess(self, address: str) -> None:
        """A wrong key that needs no look-up does not wait for being counted either; raises RateLimited."""
        self.wrong_keys.check(address)
        if len(self._counting) < MAX_COUNTING:
            task = asyncio.create_task(self._count(address))
            self._counting.add(task)
            task.add_done_callback(self._counting.discard)


def masked(token: str) -> str:
    """Enough of a key to recognise it by, and no more: `sk-***1Xy9`."""
    return f"{token[:3]}***{token[-4:]}" if len(token) >= 20 else "***"
