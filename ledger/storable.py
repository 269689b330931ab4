"""What a row can hold: every text, number and list of an entry made fit for SQLite and PostgreSQL (pure).

Model names, error codes and ids come from strangers. None of them may keep a line from being written or a batch from
being stored, so they are cut and cleaned, never refused.
"""

import math
from collections.abc import Mapping
from operator import attrgetter, gt
from typing import Any, TypeVar

import msgspec

from ledger.entries import Opened, Settled

# Characters of each text column; ledger.models takes its column widths from here.
LENGTHS: Mapping[str, int] = {
    "id": 40,
    "key": 40,
    "key_name": 100,
    "endpoint": 60,
    "alias": 200,
    "model": 300,
    "outcome": 40,
    "error_code": 100,
    "provider": 60,
    "upstream_model": 300,
    "usage_source": 20,
    "upstream_request_id": 200,
    "team": 40,
    "team_name": 100,
    "end_user": 200,
    "price_source": 20,
    "cache": 10,
}
# The largest value of each numeric column: 16, 32 and 64 bits with sign.
LARGEST: Mapping[str, int] = {
    "status": 32_767,
    "tokens_in": 2_147_483_647,
    "tokens_out": 2_147_483_647,
    "tokens_cached": 2_147_483_647,
    "tokens_reasoning": 2_147_483_647,
    "tokens_cache_write": 2_147_483_647,
    "tokens_audio_in": 2_147_483_647,
    "tokens_audio_out": 2_147_483_647,
    "images": 2_147_483_647,
    "media_ms": 9_223_372_036_854_775_807,
    "bytes_out": 9_223_372_036_854_775_807,
    "ttft_ms": 2_147_483_647,
    "duration_ms": 2_147_483_647,
}
ATTEMPTS_BYTES = 32_768
ATTEMPT_TEXT = 500
ATTEMPT_DEPTH = 4
LARGEST_INT = 9_223_372_036_854_775_807

# The texts of an Opened come first, and those that only a Settled has come after them.
_TEXTS = sorted(LENGTHS, key=lambda name: name not in Opened.__struct_fields__)
_LENGTHS = [LENGTHS[name] for name in _TEXTS]
_texts_of = attrgetter(*_TEXTS)
_first_texts_of = attrgetter(*(name for name in _TEXTS if name in Opened.__struct_fields__))
_NUMBERS = [name for name in LARGEST if name != "ttft_ms"]  # which may be None
_LARGEST = [LARGEST[name] for name in _NUMBERS]
_numbers_of = attrgetter(*_NUMBERS)

E = TypeVar("E", bound=Opened)


def text(value: str, length: int) -> str:
    """At most `length` characters, without NUL (PostgreSQL takes none) and lone surrogates (UTF-8 has none)."""
    value = value[:length]
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def number(value: int, largest: int) -> int:
    return min(max(value, 0), largest)


def storable(entry: E) -> E:
    """`entry`, or a copy of it, that both databases and the journal's encoder take, under 64 KiB as a line."""
    return entry if is_storable(entry) else _mended(entry)


def is_storable(entry: Opened) -> bool:
    """Whether it is beyond doubt fit as it is, which nearly every entry is: the look at one costs a tenth of a copy."""
    texts = (_texts_of if isinstance(entry, Settled) else _first_texts_of)(entry)
    joined = "".join(texts)
    if not joined.isascii() or "\0" in joined or any(map(gt, map(len, texts), _LENGTHS)):
        return False
    if isinstance(entry, Settled):
        numbers = _numbers_of(entry)
        if any(map(gt, numbers, _LARGEST)) or min(numbers) < 0:
            return False
        ttft = entry.ttft_ms
        if ttft is not None and not 0 <= ttft <= LARGEST["ttft_ms"]:
            return False
        # Short as a whole, so each text in it is short; a backslash may be a NUL or half of a surrogate pair.
        try:
            attempts = msgspec.json.encode(entry.attempts)
        except (ValueError, TypeError, OverflowError, RecursionError):
            return False
        return len(attempts) <= ATTEMPT_TEXT and attempts.isascii() and b"\\" not in attempts
    return True


def _mended(entry: E) -> E:
    changed: dict[str, Any] = {}
    for name in entry.__struct_fields__:
        value = getattr(entry, name)
        if name in LENGTHS:
            changed[name] = text(value, LENGTHS[name])
        elif name in LARGEST and value is not None:
            changed[name] = number(value, LARGEST[name])
        elif name == "attempts":
            changed[name] = _attempts(value)
    return msgspec.structs.replace(entry, **changed)


def _attempts(attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    size = 0
    for attempt in attempts:
        clean = _json(attempt, ATTEMPT_DEPTH)
        size += len(msgspec.json.encode(clean))
        if size > ATTEMPTS_BYTES:
            break
        kept.append(clean)
    return kept


def _json(value: Any, depth: int) -> Any:
    """`value` as JSON that jsonb takes: bounded depth, texts and integers; what is no JSON becomes its type's name."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, ATTEMPT_TEXT)
    if isinstance(value, int):
        return min(max(value, -LARGEST_INT), LARGEST_INT)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        return {text(str(name), ATTEMPT_TEXT): _json(inner, depth - 1) for name, inner in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_json(inner, depth - 1) for inner in value]
    return type(value).__name__
