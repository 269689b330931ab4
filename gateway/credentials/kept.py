"""Keys that have a row: secret ones, publishable ones, and those that were brought from elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from gateway.credentials.identity import Identity
from gateway.sqlthread import paced
from providers import keyring
from providers.keyring import Verdict
from providers.targets import KeyCard

log = structlog.get_logger("gateway")

Sql = Callable[..., Awaitable[Any]]


class Secret:
    """`sk-gw-`, and keys from elsewhere: for servers. A page gets no answer to one that it could read."""

    for_pages = False

    def __init__(self, soon: Sql, sql: Sql) -> None:
        self._soon, self._sql = soon, sql
        self._renewing: dict[str, asyncio.Task[None]] = {}  # by the key's id

    def find(self, token: str) -> Identity | Verdict:
        found = keyring.find(token)
        return found if isinstance(found, Verdict) else self.identity(found)

    async def learn(self, token: str) -> Identity | None:
        found = await self._soon(keyring.load, token)
        return None if found is None else self.identity(found)

    def identity(self, card: KeyCard) -> Identity:
        return Identity(card)

    def used(self, token: str, identity: Identity) -> None:
        """Only here is the token there to be digested anew, under the pepper for writing."""
        key_id = identity.key.id
        if identity.key.repepper and key_id not in self._renewing:
            self._renewing[key_id] = asyncio.create_task(self._renew(key_id, token))

    async def _renew(self, key_id: str, token: str) -> None:
        try:
            await self._sql(paced, keyring.renew, token)
        except Exception:
            log.exception("repepper_failed", key=key_id)
        finally:
            del self._renewing[key_id]

    async def close(self) -> None:
        await asyncio.gather(*self._renewing.values(), return_exceptions=True)


class Publishable(Secret):
    """`pk-gw-`: stands in a page's source, and works in the pages of the origins that it names."""

    for_pages = True

    def identity(self, card: KeyCard) -> Identity:
        return Identity(card, origins=card.origins)
