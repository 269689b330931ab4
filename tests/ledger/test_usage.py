"""Usage as providers report it, in whole and in part."""

from typing import Any

import msgspec
import pytest

from ledger.usage import Usage, decode_usage, read_usage


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


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 10_000])
def test_what_is_no_json_holds_no_usage(text: bytes) -> None:
    assert decode_usage(text) is None
