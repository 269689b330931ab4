"""The built-in provider answers in OpenAI's form (https://platform.openai.com/docs/api-reference)."""

import base64
import json
import math
import struct
from typing import Any

import pytest

from gateway.echo import chat as echo
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE, events, payload

CHAT = {"model": "m", "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi  there"}]}


async def call(path: str, body: Any = None) -> tuple[int, dict[str, str], list[bytes]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, headers, chunks = echo.answer(path, data)
    return status, headers, [chunk async for chunk in chunks]


async def ask(path: str, body: Any = None) -> tuple[int, Any]:
    status, headers, chunks = await call(path, body)
    assert headers["content-type"] == "application/json"
    return status, json.loads(b"".join(chunks))


async def test_chat_says_the_last_user_message() -> None:
    status, told = await ask("/v1/chat/completions", CHAT)
    assert status == 200
    assert list(told) == ["id", "object", "created", "model", "choices", "usage", "service_tier", "system_fingerprint"]
    assert told["id"].startswith("chatcmpl-")
    assert (told["object"], told["model"]) == ("chat.completion", "m")
    message: dict[str, Any] = {"role": "assistant", "content": "Hi  there", "refusal": None, "annotations": []}
    assert told["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    usage = told["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 2, 6)


async def test_a_chat_stream_has_openai_s_order_of_chunks() -> None:
    status, headers, chunks = await call("/v1/chat/completions", {**CHAT, "stream": True})
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert chunks[-1] == DONE
    told = [json.loads(payload(chunk)) for chunk in chunks[:-1]]
    assert [chunk["choices"][0]["delta"] for chunk in told] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hi  "},
        {"content": "there"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in told] == [None, None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in told}) == 1
    assert told[0]["object"] == "chat.completion.chunk"
    assert not any("usage" in chunk for chunk in told)


async def test_usage_stands_in_the_last_chunk_where_it_is_asked_for() -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    _, _, chunks = await call("/chat/completions", body)
    told = [json.loads(payload(chunk)) for chunk in chunks[:-1]]
    assert [chunk["usage"] for chunk in told[:-1]] == [None] * 4
    assert told[-1]["choices"] == []
    assert told[-1]["usage"]["total_tokens"] == 6
    relay = ChatRelay(chat=True, wants_usage=True)
    assert b"".join(map(relay.feed, chunks)) == b"".join(chunks)


async def test_several_choices_interleave() -> None:
    _, _, chunks = await call("/chat/completions", {**CHAT, "stream": True, "n": 2})
    told = [json.loads(payload(event)) for event in events(b"".join(chunks)) if event != DONE]
    assert [chunk["choices"][0]["index"] for chunk in told] == [0, 1] * 4
    assert len((await ask("/chat/completions", {**CHAT, "n": 2}))[1]["choices"]) == 2


async def test_a_token_limit_cuts_the_answer() -> None:
    _, told = await ask("/chat/completions", {**CHAT, "max_completion_tokens": 1})
    assert told["choices"][0]["message"]["content"] == "Hi  "
    assert told["choices"][0]["finish_reason"] == "length"


async def test_text_parts_of_a_message_are_joined() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "b"},
    ]
    _, told = await ask("/chat/completions", {"model": "m", "messages": [{"role": "user", "content": parts}]})
    assert told["choices"][0]["message"]["content"] == "a b"


async def test_completions_say_the_prompt() -> None:
    _, told = await ask("/v1/completions", {"model": "m", "prompt": ["a b", "c"]})
    assert told["id"].startswith("cmpl-")
    assert [(choice["index"], choice["text"]) for choice in told["choices"]] == [(0, "a b"), (1, "c")]
    assert told["usage"]["prompt_tokens"] == 3
    _, _, chunks = await call("/v1/completions", {"model": "m", "prompt": "a b", "stream": True})
    told = [json.loads(payload(chunk)) for chunk in chunks[:-1]]
    assert "".join(chunk["choices"][0]["text"] for chunk in told) == "a b"
    assert (told[-1]["object"], told[-1]["choices"][0]["finish_reason"]) == ("text_completion", "stop")


async def test_embeddings_are_unit_vectors_and_the_same_in_both_encodings() -> None:
    body = {"model": "m", "input": ["a b", "c"], "dimensions": 5}
    _, plain = await ask("/v1/embeddings", body)
    _, packed = await ask("/v1/embeddings", {**body, "encoding_format": "base64"})
    for index in (0, 1):
        vector = plain["data"][index]["embedding"]
        assert math.isclose(sum(part * part for part in vector), 1, rel_tol=1e-6)
        assert list(struct.unpack("<5f", base64.b64decode(packed["data"][index]["embedding"]))) == vector
    assert plain["data"][0]["embedding"] != plain["data"][1]["embedding"]
    assert plain["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    _, tokens = await ask("/v1/embeddings", {"model": "m", "input": [1, 2, 3]})
    assert len(tokens["data"]) == 1
    assert tokens["usage"]["prompt_tokens"] == 3


async def test_there_is_one_model() -> None:
    one = {"id": "echo", "object": "model", "created": 1_700_000_000, "owned_by": "system"}
    assert await ask("/v1/models") == (200, {"object": "list", "data": [one]})
    assert await ask("/v1/models/echo") == (200, one)


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("/chat/completions", b"{", 400, None, None),
        ("/chat/completions", b"[]", 400, None, "invalid_type"),
        ("/chat/completions", {"model": "m"}, 400, "messages", "missing_required_parameter"),
        ("/chat/completions", {"model": "m", "messages": []}, 400, "messages", "empty_array"),
        ("/chat/completions", {**CHAT, "n": "x"}, 400, "n", "invalid_type"),
        ("/chat/completions", {**CHAT, "n": 0}, 400, "n", "invalid_value"),
        ("/chat/completions", {**CHAT, "max_tokens": 0}, 400, "max_tokens", "integer_below_min_value"),
        ("/completions", {"model": "m", "prompt": []}, 400, "prompt", "invalid_value"),
        ("/embeddings", {"model": "m", "input": []}, 400, "input", "invalid_value"),
        ("/embeddings", {"model": "m", "input": "a", "dimensions": 0}, 400, "dimensions", "invalid_value"),
        ("/embeddings", {"model": "m", "input": "a", "encoding_format": "x"}, 400, "encoding_format", "invalid_value"),
        ("/foo", {}, 404, None, "unknown_url"),
    ],
)
async def test_a_bad_call_is_refused_as_openai_does(
    path: str, body: Any, status: int, param: str | None, code: str | None
) -> None:
    got, told = await ask(path, body)
    assert got == status
    assert list(told["error"]) == ["message", "type", "param", "code"]
    assert (told["error"]["type"], told["error"]["param"], told["error"]["code"]) == (
        "invalid_request_error",
        param,
        code,
    )
