"""One kept answer, and its form in a store that others can write to.

The form is `MAGIC | checksum (16 bytes) | length of the facts (4 bytes, big) | facts (JSON) | body`. The checksum is
keyed and covers the name under which it is found: what another hand has put there is no answer.
"""

import hashlib
import hmac
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import msgspec

from gateway.caching.identity import secret
from ledger.usage import Usage

MAGIC: Final = b"gwc1"
CHECKSUM: Final = 16
HEAD: Final = len(MAGIC) + CHECKSUM + 4
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


@dataclass(frozen=True, slots=True)
class Kept:
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
    facts = _encode(kept.facts)
    rest = len(facts).to_bytes(4, "big") + facts + kept.body
    return MAGIC + _checksum(name, rest) + rest


def unframe(name: bytes, data: bytes) -> Kept | None:
    """The answer that was framed under this name; None for anything else."""
    if not HEAD <= len(data) <= MAX_FRAME or not data.startswith(MAGIC):
        return None
    rest = data[len(MAGIC) + CHECKSUM :]
    if not hmac.compare_digest(data[len(MAGIC) : len(MAGIC) + CHECKSUM], _checksum(name, rest)):
        return None
    end = 4 + int.from_bytes(rest[:4], "big")
    try:
        return Kept(_decode(rest[4:end]), rest[end:])
    except (msgspec.MsgspecError, ValueError):
        return None


def _checksum(name: bytes, rest: bytes) -> bytes:
    made = hashlib.blake2b(name, key=secret(), digest_size=CHECKSUM)
    made.update(rest)
    return made.digest()
