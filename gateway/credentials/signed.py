"""Tokens that an application's own users hold, signed by an issuer whom the operator has registered.

https://openid.net/specs/openid-connect-core-1_0.html, section 3.1.3.7
"""

import binascii
import hashlib
import time
from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from gateway.credentials.identity import Identity, Kind
from gateway.credentials.issuerkeys import Absence, IssuerKeys
from gateway.credentials.kept import Sql
from gateway.errors import Forbidden, Overloaded, Unauthorized
from providers import keyring, snapshot
from providers.issuers import END_USER_CHARS, IssuerCard
from providers.keyring import MISSING, UNKNOWN, Verdict
from providers.targets import KeyCard

if TYPE_CHECKING:
    from gateway.credentials.jose import PublicKey

BEGINNING = "eyJ"  # `{"` in base64
MAX_CHARS = 8192
MAX_KNOWN = 10_000
KIND = "signed"


class NoProfile(Forbidden):
    """The token is genuine, and stands for nobody here."""

    code = "no_key_for_token"


class Head(msgspec.Struct):
    alg: str
    kid: str = ""
    crit: Any = None


class Body(msgspec.Struct):
    iss: str
    aud: str | list[str]


class Claimed(NamedTuple):
    """What a token says of itself; nothing is proved yet."""

    algorithm: str
    key_id: str
    issuer: IssuerCard


class Proved(NamedTuple):
    """A genuine token of an issuer that is ours."""

    issuer: IssuerCard
    signer: "PublicKey"
    claims: dict[str, Any]


class Known(NamedTuple):
    """What a proved token comes to, as long as its issuer's card and its key's are what they were.

    Once a minute, when the configuration is read anew, they are not: the token is proved again, by the keys of then.
    """

    proved: Proved
    key: KeyCard
    identity: Identity
    ends_at: float


_head, _body = msgspec.json.Decoder(Head).decode, msgspec.json.Decoder(Body).decode


class Signed:
    """JSON web tokens. One whose issuer nobody has registered may be a key from elsewhere: `others` knows those."""

    for_pages = True

    def __init__(self, soon: Sql, keys: IssuerKeys, others: Kind) -> None:
        self._soon, self._keys, self._others = soon, keys, others
        self._known: dict[bytes, Known] = {}  # by the whole token's digest

    def find(self, token: str) -> Identity | Verdict:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        if known is not None:
            if time.time() >= known.ends_at:
                del self._known[digest]
                raise expired()
            issuer = known.proved.issuer
            if (
                snapshot.current().issuers.get((issuer.issuer, issuer.audience)) is issuer
                and keyring.find_by_id(known.key.id) is known.key
                and self._keys.has(issuer, known.proved.signer)
            ):
                return known.identity
        return self._read(token, digest)

    async def learn(self, token: str) -> Identity | None:
        claimed = self._claimed(token)
        if claimed is None:
            return None
        if self._proved(token, claimed) is MISSING:
            await self._keys.fetch(claimed.issuer)
        proved = self._proved(token, claimed)
        if isinstance(proved, Verdict):
            return None
        if keyring.find_by_id(key_id := proved.issuer.key_id(proved.claims)) is MISSING:
            await self._soon(keyring.load_by_id, key_id)
        found = self.find(token)
        return found if isinstance(found, Identity) else None

    def used(self, token: str, identity: Identity) -> None:
        """Nothing is kept of a token that would have to be renewed."""

    def _read(self, token: str, digest: bytes) -> Identity | Verdict:
        claimed = self._claimed(token)
        if claimed is None:
            return self._others.find(token)
        proved = self._proved(token, claimed)
        if isinstance(proved, Verdict):
            return proved
        issuer, _, claims = proved
        key_id = issuer.key_id(claims)
        if not key_id:
            raise NoProfile(f"This token's claim `{issuer.profile_claim}` leads to no key here.")
        key = keyring.find_by_id(key_id)
        if isinstance(key, Verdict):
            return key
        ends_at = float(claims["exp"]) + issuer.leeway
        identity = identity_of(issuer, key, claims, ends_at)
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = Known(proved, key, identity, ends_at)
        return identity

    def _claimed(self, token: str) -> Claimed | None:
        parts = token.split(".", 3) if len(token) <= MAX_CHARS else []
        if len(parts) != 3:
            return None
        try:
            head, body = _head(_decoded(parts[0])), _body(_decoded(parts[1]))
        except (binascii.Error, ValueError):
            return None
        issuers = snapshot.current().issuers
        audiences = [body.aud] if isinstance(body.aud, str) else body.aud
        issuer = next((found for name in audiences if (found := issuers.get((body.iss, name))) is not None), None)
        # An extension that must be understood is not.
        if issuer is None or head.crit is not None:
            return None
        return Claimed(head.alg, head.kid, issuer)

    def _proved(self, token: str, claimed: Claimed) -> Proved | Verdict:
        """Raises Unauthorized for a token whose time is over, Overloaded where its issuer's keys are not to be had."""
        algorithm, key_id, issuer = claimed
        if algorithm not in issuer.algorithms:
            return UNKNOWN
        signer = self._keys.find(issuer, key_id)
        if isinstance(signer, Absence):
            if signer is Absence.AWAY:
                raise Overloaded("The token's issuer does not answer now.", code="issuer_unavailable", retry_after=30)
            return MISSING if signer is Absence.ASK else UNKNOWN
        from gateway.credentials import jose

        try:
            claims = jose.claims(token, algorithm, signer, issuer)
        except jose.Expired:
            raise expired() from None
        return UNKNOWN if claims is None else Proved(issuer, signer, claims)


def identity_of(issuer: IssuerCard, key: KeyCard, claims: dict[str, Any], ends_at: float) -> Identity:
    """The key's card for the token's end user. Where calls of the key may come from says nothing about his address."""
    end_user = claims.get(issuer.end_user_claim)
    if not isinstance(end_user, str) or not 0 < len(end_user) <= END_USER_CHARS or not end_user.isprintable():
        raise Unauthorized(
            f"The token's claim `{issuer.end_user_claim}` must name its user in 1 to {END_USER_CHARS} characters.",
            code="invalid_token",
        )
    tags = {
        tag: str(claims[claim])[:END_USER_CHARS]
        for tag, claim in issuer.tag_claims.items()
        if isinstance(claims.get(claim), str | int | float)
    }
    issued_at = claims.get("iat")
    card = replace(
        key,
        kind=KIND,
        tags={**key.tags, **tags},
        expires_at=ends_at if key.expires_at is None else min(ends_at, key.expires_at),
        cidrs=(),
        repepper=False,
    )
    return Identity(
        card, end_user, key.origins or None, float(issued_at) if isinstance(issued_at, int | float) else 0.0
    )


def expired() -> Unauthorized:
    return Unauthorized("The token's time is over. Get a new one from its issuer.", code="token_expired")


def _decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))
