"""By what an answer is found: a digest of the request as the provider would get it, and of who may be given it.

Two requests are equal where their JSON means the same: order of names, white space, escapes and the spelling of numbers
(1.0 and 1) make no difference. The digest is keyed: who can read a store of answers cannot try out questions on it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from django.conf import settings
from msgspec.structs import replace

from gateway.errors import GatewayError
from gateway.outgoing import outgoing
from gateway.parsing import heads
from gateway.parsing.asks import Ask
from providers import purging
from providers.targets import AliasCard, KeyCard, Target

VERSION: Final = b"1"  # of what goes into a digest: another one finds nothing of what was kept before
MAX_BYTES: Final = 1024 * 1024  # of a request; to read a larger one anew would cost more than it is worth
MAX_EXACT: Final = 2**53  # beyond it two whole numbers may be one float
# They say who asks, how the answer is to come and where it is billed, and change nothing in it.
IGNORED: Final = (
    *("stream", "stream_options", "user", "safety_identifier", "metadata"),
    *("prompt_cache_key", "prompt_cache_retention"),
)


class NotComparable(ValueError):
    """The request cannot be compared with others: it is too large, or providers may read it differently."""


def _number(text: str) -> float | int:
    value = float(text)
    if value.is_integer() and abs(value) < MAX_EXACT:
        return int(value)
    if value in (float("inf"), float("-inf")):
        raise NotComparable(text)
    return value


_decode = msgspec.json.Decoder(float_hook=_number).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def request_of(ask: Ask, target: Target) -> dict[str, Any]:
    """What the target would be sent, as values, without what changes nothing in an answer. Raises NotComparable."""
    fields = {name: raw for name, raw in ask.fields.items() if name not in IGNORED}
    try:
        raw = outgoing(replace(ask, fields=fields, stream=False), target, []).body
        if not isinstance(raw, bytes) or len(raw) > MAX_BYTES:
            raise NotComparable("too large")
        values: dict[str, Any] = _decode(raw)
    except (GatewayError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise NotComparable(str(exc)) from None
    # Of a name that stands twice in an object we know the last, and a provider may take the first.
    if not isinstance(values, dict) or _members(raw) != _members(_encode(values)):
        raise NotComparable("a name stands twice")
    for name in IGNORED:
        values.pop(name, None)
    return values


def _members(text: bytes) -> int:
    """How many names with values there are: colons outside of strings."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return sum(part.count(b":") for part in text.split(b'"')[::2])


@cache
def secret(purpose: bytes) -> bytes:
    """A key of 32 bytes; without a database it is this process's own."""
    return hashlib.blake2b(settings.SECRET_KEY.encode(), digest_size=32, salt=purpose, person=b"answer cache").digest()


def add(made: "hashlib.blake2b", *parts: bytes) -> "hashlib.blake2b":
    """Each part is counted by its length, so that no two lists of parts are the same text."""
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made


def owner(key: KeyCard, scope: str) -> str:
    """Who is given an answer again; a key without a team shares with nobody."""
    if scope == "shared":
        return "shared"
    if scope == "team" and key.team is not None:
        return "team:" + key.team.id
    return "key:" + key.principal


class Namer:
    """Digests for one request: everything but what is asked goes in once."""

    def __init__(
        self,
        ask: Ask,
        alias: AliasCard,
        key: KeyCard,
        target: Target,
        purges: Mapping[str, str],
        forwarded: Iterable[tuple[str, str]],
    ) -> None:
        assert alias.cache is not None
        marks = purges.get(purging.ALL, ""), purges.get(purging.name_of(purging.ALIAS, alias.id), "")
        provider = target.provider
        place = (ask.path, ask.query, alias.id, *marks, owner(key, alias.cache.scope))
        where = (provider.id, provider.dialect, provider.base_url, target.model)
        # What of the client's head goes on to the provider, and can change its answer.
        head = sorted(":".join(pair) for pair in forwarded if pair[0] != heads.KEYED)
        parts = (part.encode("utf-8", "replace") for part in (*place, *where, "\n".join(head)))
        self._place = add(hashlib.blake2b(VERSION, key=secret(b"names"), digest_size=32), *parts)

    def __call__(self, kind: str, *values: Any) -> bytes:
        """32 bytes."""
        return add(self._place.copy(), kind.encode(), *map(_encode, values)).digest()

    def each(self, kind: str, common: Any, values: Iterable[Any]) -> list[bytes]:
        """One for each of the values, with what they have in common."""
        begun = add(self._place.copy(), kind.encode(), _encode(common))
        return [add(begun.copy(), _encode(value)).digest() for value in values]
