"""Tokens of a few minutes for one end user: `ek-gw-<pepper id>.<claims>.<MAC, 43><checksum, 6>` (pure).

The claims are JSON in unpadded base64url, the MAC is HMAC-SHA-256 of all that stands before it, in base64url, and the
checksum is that of client keys (providers/keys.py). Nothing in a token says how it is to be verified.

The key of the MAC comes from a pepper by HKDF (https://www.rfc-editor.org/rfc/rfc5869) under a label of its own. A
pepper proves client keys and these tokens are client keys that are told instead of kept, so both end together when a
pepper is taken out; knowing one of the two values does not give the other away.
"""

import binascii
import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from providers import keys
from providers.targets import KeyCard, Limits

PREFIX = "ek-gw-"
LABEL = b"llm-gateway/ephemeral-token/v1"
FORM = re.compile(
    r"(ek-gw-([0-9A-Za-z]{1,40})\.([0-9A-Za-z_-]{20,8000}))\.([0-9A-Za-z_-]{43})([0-9A-Za-z]{6})\Z", re.ASCII
)


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a token says. `key` is the id of the key that minted it; of the rest None and 0 mean: as that key has it."""

    id: str
    key: str
    end_user: str
    issued_at: int  # unix seconds
    expires_at: int
    origin: str = ""  # of the page that it is meant for; "": it is for no page
    aliases: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    max_tokens: int | None = None
    rpm: int = 0
    tpm: int = 0
    concurrency: int = 0


class Parts(NamedTuple):
    """A token of this form with a good checksum; nothing is proved yet."""

    pepper_id: str
    signed: bytes
    claims: str
    mac: str


_encode = msgspec.json.Encoder().encode
_claims = msgspec.json.Decoder(Claims)


def seal(pepper_id: str, pepper: bytes, claims: Claims) -> str:
    """The token."""
    signed = f"{PREFIX}{pepper_id}.{_base64(_encode(claims))}"
    body = f"{signed}.{mac(pepper, signed.encode())}"
    return body + keys.checksum(body)


def parse(token: str) -> Parts | None:
    found = FORM.match(token)
    if found is None or keys.checksum(token[: -keys.CHECKSUM_CHARS]) != found[5]:
        return None
    return Parts(found[2], found[1].encode(), found[3], found[4])


def is_genuine(parts: Parts, pepper: bytes) -> bool:
    """Whether this pepper's key made it; takes as long for every other."""
    return hmac.compare_digest(mac(pepper, parts.signed), parts.mac)


def read(parts: Parts) -> Claims | None:
    """The claims of a genuine token; None where another version of the gateway has made it, and says more or less."""
    try:
        return _claims.decode(urlsafe_b64decode(parts.claims + "=" * (-len(parts.claims) % 4)))
    except (binascii.Error, ValueError):
        return None


def mac(pepper: bytes, signed: bytes) -> str:
    return _base64(hmac.digest(_key(pepper), signed, "sha256"))


def narrowed(minter: KeyCard, claims: Claims) -> KeyCard:
    """The minter's card as far as the claims go, and never further, whatever the minter may do by now.

    Where calls of the minter may come from says nothing about the address of its end user.
    """
    own, given = minter.end_user_limits, claims
    ends_at = claims.expires_at if minter.expires_at is None else min(claims.expires_at, minter.expires_at)
    endpoints = minter.endpoints
    if claims.endpoints is not None:
        endpoints = tuple(name for name in claims.endpoints if not endpoints or name in endpoints)
    return replace(
        minter,
        kind="ephemeral",
        aliases=minter.aliases if claims.aliases is None else both(claims.aliases, minter.aliases),
        # An empty list would mean all of them.
        endpoints=endpoints or (("none",) if claims.endpoints is not None else ()),
        max_tokens=min((bound for bound in (claims.max_tokens, minter.max_tokens) if bound is not None), default=None),
        end_user_limits=Limits(
            rpm=_least(given.rpm, own.rpm),
            tpm=_least(given.tpm, own.tpm),
            concurrency=_least(given.concurrency, own.concurrency),
        ),
        expires_at=float(ends_at),
        cidrs=(),
        repepper=False,
    )


def both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns of the names that both lists of patterns allow."""
    found: dict[str, None] = {}
    for left in one:
        for right in other:
            if _covers(right, left):
                found[left] = None
            elif _covers(left, right):
                found[right] = None
    return tuple(found)


def _covers(wide: str, narrow: str) -> bool:
    """Whether every name that `narrow` allows is allowed by `wide`."""
    return wide == narrow or (wide.endswith("*") and narrow.removesuffix("*").startswith(wide[:-1]))


def _least(one: int, other: int) -> int:
    """Of two limits, of which 0 is none."""
    return min(one, other) if one and other else one or other


@lru_cache(maxsize=16)
def _key(pepper: bytes) -> bytes:
    # A start for those who use none of these tokens goes without it.
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=LABEL).derive(pepper)


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
