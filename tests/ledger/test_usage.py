"""Usage as providers report it, in whole and in part."""

from typing import Any

import msgspec
import pytest

from ledger.usage import Usage, decode_usage, read_media, read_usage


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        # https://platform.openai.com/docs/api-reference/chat/object
        (
            {
                "prompt_tokens": 19,
                "completion_tokens": 10,
                "total_tokens": 29,
                "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 7},
            },
            Usage(19, 10, 5, 7),
        ),
        # https://platform.openai.com/docs/api-reference/embeddings/object
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8, 0)),
        # https://platform.openai.com/docs/api-reference/responses/object
        (
            {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 87,
                "total_tokens": 123,
            },
            Usage(36, 87, 4),
        ),
        # https://api-docs.deepseek.com/guides/kv_cache
        ({"prompt_tokens": 9, "completion_tokens": 1, "prompt_cache_hit_tokens": 3}, Usage(9, 1, 3)),
        ({"prompt_tokens": 9.0, "completion_tokens": None, "prompt_tokens_details": None}, Usage(9, 0)),
        ({"prompt_tokens": "9", "completion_tokens": 2}, Usage(0, 2)),
        ({"total_tokens": 5}, Usage(5, 0)),
        # https://platform.openai.com/docs/api-reference/audio/json-object
        ({"type": "duration", "seconds": 12}, Usage(media_ms=12_000)),
        ({"type": "tokens", "input_tokens": 14, "output_tokens": 45, "seconds": 3}, Usage(14, 45, media_ms=3000)),
        ({"type": "duration", "seconds": "x"}, None),
        ({"type": "duration", "seconds": -1}, None),
        ({"completion_tokens": 2, "total_tokens": 5}, Usage(3, 2)),
        ({"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 7}}, Usage(1, 0, 1)),
        ({"prompt_tokens": -1, "completion_tokens": 1e300, "total_tokens": True}, None),
        ({"prompt_tokens": None}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_usage_is_read_as_far_as_it_goes(given: Any, usage: Usage | None) -> None:
    assert read_usage(given) == usage
    assert decode_usage(msgspec.json.encode(given)) == usage


@pytest.mark.parametrize(
    ("endpoint", "answer", "usage", "expected"),
    [
        ("audio.transcriptions", {"duration": 8.47, "text": "x"}, None, Usage(media_ms=8470)),
        ("audio.transcriptions", {"duration": "8.47"}, None, Usage(media_ms=8470)),
        ("audio.translations", {"duration": 2}, Usage(media_ms=3000), Usage(media_ms=3000)),
        ("audio.transcriptions", {"duration": None}, None, None),
        ("audio.speech", {"duration": 8}, None, None),
        ("videos", {"seconds": "4", "object": "video"}, None, Usage(media_ms=4000)),
        ("images", {"data": [{}, {}]}, None, Usage(images=2)),
        ("images", {"data": [{}]}, Usage(50, 4000), Usage(50, 4000, images=1)),
        ("images", {"data": {}}, None, None),
        ("images", {}, Usage(1), Usage(1)),
    ],
)
def test_pictures_are_counted_and_sound_is_measured_by_what_the_answer_says(
    endpoint: str, answer: dict[str, Any], usage: Usage | None, expected: Usage | None
) -> None:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in answer.items()}
    assert read_media(endpoint, raw, usage) == expected


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 10_000])
def test_what_is_no_json_holds_no_usage(text: bytes) -> None:
    assert decode_usage(text) is None
