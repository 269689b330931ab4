"""Ephemeral tokens: proved by their own MAC, and alive as long as the key is that minted them."""

from typing import NamedTuple

from gateway.credentials.identity import Identity
from gateway.credentials.kept import Sql
from providers import ephemeral, keyring, peppers
from providers.ephemeral import Claims, Parts
from providers.keyring import UNKNOWN, Verdict
from providers.targets import KeyCard

MAX_KNOWN = 10_000


class Known(NamedTuple):
    """A token's identity as it follows from one card of its minter."""

    minter: KeyCard
    identity: Identity


class Ephemeral:
    """`ek-gw-`: the MAC is looked at with each call; what the claims come to is remembered."""

    for_pages = True

    def __init__(self, soon: Sql) -> None:
        self._soon = soon
        self._known: dict[str, Known] = {}  # by the MAC of a genuine token

    def find(self, token: str) -> Identity | Verdict:
        parts = ephemeral.parse(token)
        pepper = peppers.ring().get(parts.pepper_id) if parts else None
        if parts is None or pepper is None or not ephemeral.is_genuine(parts, pepper):
            return UNKNOWN
        known = self._known.get(parts.mac)
        if known is None:
            return self._read(parts)
        minter = keyring.find_by_id(known.minter.id)
        if minter is known.minter:
            return known.identity
        return self._read(parts)

    async def learn(self, token: str) -> Identity | None:
        parts = ephemeral.parse(token)
        claims = ephemeral.read(parts) if parts else None
        if claims is None:
            return None
        await self._soon(keyring.load_by_id, claims.key)
        found = self.find(token)
        return found if isinstance(found, Identity) else None

    def used(self, token: str, identity: Identity) -> None:
        """Nothing is kept of a token that would have to be renewed."""

    def _read(self, parts: Parts) -> Identity | Verdict:
        claims = ephemeral.read(parts)
        if claims is None:
            return UNKNOWN
        minter = keyring.find_by_id(claims.key)
        if isinstance(minter, Verdict):
            return minter
        identity = identity_of(minter, claims)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[parts.mac] = Known(minter, identity)
        return identity


def identity_of(minter: KeyCard, claims: Claims) -> Identity:
    origins = (claims.origin,) if claims.origin else None
    return Identity(ephemeral.narrowed(minter, claims), claims.end_user, origins, float(claims.issued_at))
