"""The tokens of one call, as providers report them (pure): https://platform.openai.com/docs/api-reference/chat/object."""

from decimal import Decimal
from typing import Any

import msgspec

# The field of an answer that says how long the sound or the film is.
LENGTH_OF = {"audio.transcriptions": "duration", "audio.translations": "duration", "videos": "seconds"}
# Providers that are not OpenAI give cached tokens under names of their own.
CACHED_NAMES = ("prompt_cache_hit_tokens", "cached_tokens")


class Usage(msgspec.Struct, frozen=True):
    """Tokens; `tokens_cached` and `tokens_cache_write` are parts of `tokens_in`, `tokens_reasoning` is a part of
    `tokens_out`, audio of either."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    tokens_reasoning: int = 0
    tokens_audio_in: int = 0
    tokens_audio_out: int = 0
    images: int = 0
    media_ms: int = 0  # milliseconds of audio or video
    tokens_cache_write: int = 0  # that the provider has put into its own cache, for later calls
    credits: Decimal | None = None  # what the provider itself says that it took, in its own unit: OpenRouter's `cost`


def read_usage(value: object) -> Usage | None:
    """Usage from the `usage` object of chat, completions, embeddings or responses; None where it holds no count.

    Tolerates nulls, numbers given as floats and missing fields; a negative or absurd count is none.
    """
    if not isinstance(value, dict):
        return None
    tokens_in = _count(value, "prompt_tokens", "input_tokens")
    tokens_out = _count(value, "completion_tokens", "output_tokens")
    total = _count(value, "total_tokens")
    if tokens_in is None and tokens_out is None and total is None:
        # A transcription that is charged by its length, a prediction by its time.
        media_ms = milliseconds(value.get("seconds"))
        return Usage(media_ms=media_ms) if media_ms else None
    if tokens_in is None:
        tokens_in = max((total or 0) - (tokens_out or 0), 0)
    if tokens_out is None:
        tokens_out = max((total or 0) - tokens_in, 0)
    given = _part(value, "prompt_tokens_details", "input_tokens_details")
    cached = _count(given, "cached_tokens")
    if cached is None:
        cached = _count(value, *CACHED_NAMES)
    written = _count(given, "cache_write_tokens", "cache_creation_tokens")
    if written is None:
        written = _count(value, "cache_creation_input_tokens")
    spoken = _part(value, "completion_tokens_details", "output_tokens_details")
    reasoning = _count(spoken, "reasoning_tokens")
    heard = _count(given, "audio_tokens")
    audio = _count(spoken, "audio_tokens")
    return Usage(
        tokens_in,
        tokens_out,
        min(cached or 0, tokens_in),
        min(reasoning or 0, tokens_out),
        min(heard or 0, tokens_in),
        min(audio or 0, tokens_out),
        media_ms=milliseconds(value.get("seconds")),
        tokens_cache_write=min(written or 0, tokens_in - min(cached or 0, tokens_in)),
        credits=_amount(value.get("cost")),
    )


def read_messages_usage(value: object) -> Usage | None:
    """The same from Anthropic's `usage`, where cached tokens stand beside the others and not among them.

    https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
    """
    if not isinstance(value, dict):
        return None
    given, tokens_out = _count(value, "input_tokens"), _count(value, "output_tokens")
    if given is None and tokens_out is None:
        return None
    cached = _count(value, "cache_read_input_tokens") or 0
    written = _count(value, "cache_creation_input_tokens") or 0
    return Usage((given or 0) + cached + written, tokens_out or 0, cached, tokens_cache_write=written)


def decode_messages_usage(data: bytes | msgspec.Raw) -> Usage | None:
    try:
        return read_messages_usage(msgspec.json.decode(data))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def decode_usage(data: bytes | msgspec.Raw) -> Usage | None:
    """Usage from the JSON text of a `usage` object; None where it is not one."""
    try:
        return read_usage(msgspec.json.decode(data))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def read_media(endpoint: str, answer: dict[str, msgspec.Raw], usage: Usage | None) -> Usage | None:
    """The usage of an answer about sound or pictures, with what stands beside its `usage` object."""
    if endpoint == "images":
        images = _length(answer.get("data"))
        return msgspec.structs.replace(usage or Usage(), images=images) if images else usage
    length = LENGTH_OF.get(endpoint, "")
    if usage is None and length in answer:
        media_ms = milliseconds(_decoded(answer[length]))
        return Usage(media_ms=media_ms) if media_ms else None
    return usage


def milliseconds(seconds: object) -> int:
    """From a number of seconds, which some providers write as text; 0 where it is none."""
    try:
        value = float(seconds) if isinstance(seconds, int | float | str) else 0.0
    except ValueError:
        return 0
    return round(value * 1000) if 0 < value < 10**7 else 0


def _length(raw: msgspec.Raw | None) -> int:
    value = _decoded(raw) if raw is not None else None
    return len(value) if isinstance(value, list) else 0


def _decoded(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None


def _part(value: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        part = value.get(name)
        if isinstance(part, dict):
            return part
    return {}


def _count(value: dict[str, Any], *names: str) -> int | None:
    for name in names:
        number = value.get(name)
        if (type(number) is int or type(number) is float) and 0 <= number < 2**53:
            return int(number)
    return None


def _amount(value: object) -> Decimal | None:
    """A number of credits; through its text, since that is what the provider wrote."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**8:
        return Decimal(str(value))
    return None
