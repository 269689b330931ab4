"""Signed tokens and public keys, by PyJWT (RFC 7515, 7517, 7519; RFC 8725 says what to beware of).

Imported with the first key of an issuer: who has no issuers does without the library.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from providers.issuers import IssuerCard

MAX_KEYS = 100
MAX_NUMBER = 1400  # characters of a number in a key: RSA of 8,192 bits
MIN_RSA_BITS = 2048
KINDS = frozenset({"RSA", "EC", "OKP"})


class PublicKey(NamedTuple):
    """`made_of` is the key as its issuer writes it; `algorithm` "" where it does not say for which it is."""

    made_of: Mapping[str, Any]
    algorithm: str
    key: Any


class Expired(Exception):
    """The token is genuine, and its time is over."""


def public_keys(data: bytes) -> dict[str, PublicKey]:
    """The keys for signatures of a JWK set, by their ids; what is of no use is left out. Raises ValueError."""
    document = msgspec.json.decode(data)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a JWK set")
    found: dict[str, PublicKey] = {}
    for entry in entries[:MAX_KEYS]:
        if isinstance(entry, dict) and (key := _public_key(entry)) is not None:
            found[str(entry.get("kid", ""))] = key
    return found


def _public_key(entry: dict[str, Any]) -> PublicKey | None:
    if entry.get("kty") not in KINDS or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    if any(isinstance(value, str) and len(value) > MAX_NUMBER for name, value in entry.items() if name != "x5c"):
        return None
    try:
        key = jwt.PyJWK(entry).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        return None
    return PublicKey(entry, str(entry.get("alg") or ""), key)


def claims(token: str, algorithm: str, key: PublicKey, card: IssuerCard) -> dict[str, Any] | None:
    """What a genuine token says, None for another one. Raises Expired.

    The algorithm is one that the issuer's row names, and the one that the key is for, where that says so.
    """
    if algorithm not in card.algorithms or key.algorithm not in ("", algorithm):
        return None
    try:
        found: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=card.audience,
            issuer=card.issuer,
            leeway=card.leeway,
            options={"require": ["exp"]},
        )
    except jwt.ExpiredSignatureError as error:
        raise Expired from error
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return found
