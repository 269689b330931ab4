"""Answers as OpenAI gives them: https://platform.openai.com/docs/api-reference/chat/object and .../chat/streaming."""

from typing import Any

COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello! How can I assist you today?",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_44709d6fcb",
}

TEXT_COMPLETION: dict[str, Any] = {
    "id": "cmpl-uqkvlQyYK7bGYrRHQ0eXlWi7",
    "object": "text_completion",
    "created": 1589478378,
    "model": "gpt-3.5-turbo-instruct",
    "choices": [{"text": "This is a test", "index": 0, "logprobs": None, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}

EMBEDDINGS: dict[str, Any] = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [0.25, -0.5, 1.0], "index": 0}],
    "model": "text-embedding-3-small",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
}

USAGE = {"prompt_tokens": 19, "completion_tokens": 3, "total_tokens": 22}
FRAME = {
    "id": "chatcmpl-123",
    "object": "chat.completion.chunk",
    "created": 1694268190,
    "model": "gpt-4o-mini",
    "system_fingerprint": "fp_44709d6fcb",
}


def chunk(delta: dict[str, Any], finish: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**FRAME, "choices": [choice], **more}


def chunks(*texts: str, usage: bool = True) -> list[dict[str, Any]]:
    """A whole stream as OpenAI sends it; with `usage`, as it does when include_usage was asked for."""
    quiet: dict[str, Any] = {"usage": None} if usage else {}
    first = chunk({"role": "assistant", "content": "", "refusal": None}, **quiet)
    middle = [chunk({"content": text}, **quiet) for text in texts]
    last = [chunk({}, "stop", **quiet)]
    total = [{**FRAME, "choices": [], "usage": USAGE}] if usage else []
    return [first, *middle, *last, *total]
