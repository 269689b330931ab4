"""One kept answer, and its form in a store that others can read and write.

The form is `MAGIC | nonce (12 bytes) | sealed`, and sealed, with AES-256-GCM and the name under which it is found, are
`length of the facts (4 bytes, big) | facts (JSON) | body`: what another hand has put there, or elsewhere, is no answer.
"""

import os
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Final

import msgspec

from gateway.caching.identity import secret
from ledger.usage import Usage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC: Final = b"gwc1"
NONCE: Final = 12
HEAD: Final = len(MAGIC) + NONCE
MAX_BODY: Final = 4 * 1024 * 1024
MAX_FRAME: Final = MAX_BODY + 64 * 1024
OVERHEAD: Final = 512  # bytes in memory beside the body: the facts, the digest, their places in tables

STREAM, PLAIN, ITEM = "stream", "plain", "item"


class Facts(msgspec.Struct, frozen=True):
    """`author` is the principal whose request brought the answer, `mark` that key's purge mark of the time."""

    at: float  # unix seconds, wall time
    kind: str
    author: str = ""
    mark: str = ""
    model: str = ""  # the model's name at the provider
    named: str = ""  # as the answer calls it, where that is not a part of the body
    cost: Decimal | None = None  # what it did cost; None: unknown
    usage: Usage = Usage()


class Kept(msgspec.Struct, frozen=True):
    """`body` is a stream's events with their usage and `[DONE]`, or a JSON object, or one embedding as JSON."""

    facts: Facts
    body: bytes

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD

    def age(self, now: float) -> float:
        """Seconds; a clock that is a little behind makes nothing younger than new."""
        return max(now - self.facts.at, 0.0)


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


def frame(name: bytes, kept: Kept) -> bytes:
    facts, nonce = _encode(kept.facts), os.urandom(NONCE)
    plain = len(facts).to_bytes(4, "big") + facts + kept.body
    return MAGIC + nonce + _cipher().encrypt(nonce, plain, name)


def unframe(name: bytes, data: bytes) -> Kept | None:
    """The answer that was framed under this name; None for anything else."""
    if not HEAD < len(data) <= MAX_FRAME or not data.startswith(MAGIC):
        return None
    from cryptography.exceptions import InvalidTag

    try:
        plain = _cipher().decrypt(data[len(MAGIC) : HEAD], data[HEAD:], name)
        end = 4 + int.from_bytes(plain[:4], "big")
        return Kept(_decode(plain[4:end]), plain[end:])
    except (InvalidTag, msgspec.MsgspecError, ValueError):
        return None


@cache
def _cipher() -> "AESGCM":
    # A start without a database seals nothing.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(secret(b"answers"))
