"""Client keys: `sk-gw-<id, 10>-<secret, 43><checksum, 6>`, in base 62 (pure).

The checksum is the CRC-32 of all that stands before it. It is no security: it lets scanners recognise a key, and the
gateway refuse junk of this form without looking anything up. The secret has 256 bits, so its digest needs no slow hash.
"""

import hashlib
import hmac
import secrets
import zlib
from functools import lru_cache
from typing import Literal, get_args

import msgspec

from providers.ids import base62

Kind = Literal["sk", "pk", "ek"]  # secret, publishable, ephemeral
KINDS: tuple[Kind, ...] = get_args(Kind)
PREFIX_OF: dict[str, Kind] = {"secret": "sk", "publishable": "pk"}  # by a row's kind
PREFIXES = {f"{kind}-gw-": kind for kind in KINDS}
PREFIX_CHARS, ID_CHARS, SECRET_CHARS, CHECKSUM_CHARS = 6, 10, 43, 6
DASH = PREFIX_CHARS + ID_CHARS
BODY_CHARS = DASH + 1 + SECRET_CHARS
TOKEN_CHARS = BODY_CHARS + CHECKSUM_CHARS
DIGEST_BYTES = 32
# The longest key from elsewhere, in characters.
FOREIGN_CHARS = 2048


class Minted(msgspec.Struct, frozen=True):
    """A new key: `id` is public, `token` is shown once."""

    id: str
    token: str

    def __repr__(self) -> str:
        return f"Minted(id={self.id!r}, token='***')"


class Parsed(msgspec.Struct, frozen=True):
    """A token of our own form with a good checksum."""

    kind: Kind
    id: str


class Malformed(msgspec.Struct, frozen=True):
    """A token that cannot be anyone's key: ours with a fault in it, empty, too long, or with bytes no key has."""


MALFORMED = Malformed()
BLOCK_BYTES = 64  # of SHA-256
INNER, OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def mint(kind: Kind = "sk") -> Minted:
    """Make a key of 256 random bits."""
    key_id = base62(secrets.randbelow(62**ID_CHARS), ID_CHARS)
    body = f"{kind}-gw-{key_id}-{base62(secrets.randbelow(62**SECRET_CHARS), SECRET_CHARS)}"
    return Minted(key_id, body + checksum(body))


def parse(token: str) -> Parsed | Malformed | None:
    """What a token is by its form: ours, Malformed, or None for a key from elsewhere, known by its digest only."""
    kind = PREFIXES.get(token[:PREFIX_CHARS])
    if kind is None:
        return None if is_foreign(token) else MALFORMED
    if len(token) != TOKEN_CHARS or token[DASH] != "-" or not token.isascii():
        return MALFORMED
    body, key_id = token[:BODY_CHARS], token[PREFIX_CHARS:DASH]
    if not key_id.isalnum() or not token[DASH + 1 :].isalnum() or token[BODY_CHARS:] != checksum(body):
        return MALFORMED
    return Parsed(kind, key_id)


def is_foreign(token: str) -> bool:
    """Whether the text can be a key from elsewhere: 1 to 2,048 printable ASCII characters, spaces inside only."""
    return (
        0 < len(token) <= FOREIGN_CHARS
        and token.isascii()
        and token.isprintable()
        and token[0] != " "
        and token[-1] != " "
        and token[:PREFIX_CHARS] not in PREFIXES
    )


def checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), CHECKSUM_CHARS)


def digest(pepper: bytes, token: str) -> bytes:
    """HMAC-SHA-256 of the whole token, 32 bytes; an empty pepper is an error, for it would protect nothing."""
    inner, outer = (state.copy() for state in _keyed(pepper))
    inner.update(token.encode("utf-8", "surrogatepass"))
    outer.update(inner.digest())
    return outer.digest()


@lru_cache(maxsize=64)
def _keyed(pepper: bytes) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """SHA-256 that has read the pepper, for the inside and the outside of the HMAC (RFC 2104): once, not a request."""
    if not pepper:
        raise ValueError("a pepper must not be empty")
    if len(pepper) > BLOCK_BYTES:
        pepper = hashlib.sha256(pepper).digest()
    key = pepper.ljust(BLOCK_BYTES, b"\0")
    return hashlib.sha256(key.translate(INNER)), hashlib.sha256(key.translate(OUTER))


def matches(pepper: bytes, token: str, expected: bytes) -> bool:
    """Whether the token has that digest; takes as long for every wrong one."""
    return hmac.compare_digest(digest(pepper, token), expected)
