"""Plain answers: what may pass as one, and a plain answer to a client that waits for a stream."""

import json
from typing import Any

import pytest

from gateway.errors import UpstreamInvalid, UpstreamRefused
from gateway.replies.answers import as_stream, check_answer, with_base64
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE, events, payload
from ledger.usage import Usage

CHAT = "chat.completions"
# https://platform.openai.com/docs/api-reference/chat/object
WHOLE: dict[str, Any] = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4.1-2025-04-14",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello!\n\u2028", "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
    "service_tier": "default",
}
CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}, "extra_content": {"g": 1}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": {"b": 2}}},
]


def raw(value: Any, **options: Any) -> bytes:
    return json.dumps(value, **options).encode()


def told(wire: bytes) -> list[Any]:
    return [json.loads(payload(event)) for event in events(wire) if event != DONE]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_a_whole_answer_passes_byte_for_byte(content_type: str) -> None:
    body = b'{"choices": [ ],  "x":1e-7,"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    answer = check_answer(200, content_type, body, CHAT)
    assert answer.body is body
    assert answer.usage == Usage(1, 2)


def test_line_ends_that_kept_the_connection_alive_are_stripped() -> None:
    # https://api-docs.deepseek.com/faq : empty lines while a request waits
    assert check_answer(200, "application/json", b"\n\n\r\n " + raw(WHOLE), CHAT).body == raw(WHOLE)


def test_an_answer_without_usage_has_none() -> None:
    assert check_answer(200, "", b'{"choices":[],"usage":null,"error":null}', CHAT).usage is None
    assert check_answer(200, "", b'{"data":[]}', "embeddings").usage is None
    assert check_answer(200, "", b'{"anything":1}', "models").usage is None


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "nothing"),
        (b" \n", "nothing"),
        (b"<html>hi</html>", "a web page"),
        (b"hello", "a body that is no JSON object"),
        (b"[]", "a body that is no JSON object"),
        (raw(WHOLE)[:-20], "a body that is not whole, valid JSON"),
        (raw(WHOLE) + b"}", "a body that is not whole, valid JSON"),
        (b'{"choices":' + b"[" * 100_000, "a body that is not whole, valid JSON"),
        (b"{}", "a JSON object without `choices`"),
        (b'{"choices":null}', "a JSON object without `choices`"),
    ],
)
def test_what_is_no_answer_is_refused(body: bytes, what: str) -> None:
    with pytest.raises(UpstreamInvalid) as caught:
        check_answer(200, "application/json", body, CHAT)
    assert caught.value.message == f"The provider answered 200 with {what}."
    assert (caught.value.status, caught.value.code) == (502, "upstream_invalid_response")


@pytest.mark.parametrize(
    ("body", "status", "message", "code"),
    [
        # https://openrouter.ai/docs/api-reference/errors : errors with status 200
        ({"error": {"code": 429, "message": "Busy"}, "choices": []}, 429, "Busy", None),
        ({"error": {"code": "server_error", "message": "boom"}}, 502, "boom", "server_error"),
        ({"error": "boom"}, 502, "boom", None),
        ({"error": {"message": "boom", "http_status_code": 422}}, 422, "boom", None),
        ({"object": "error", "message": "boom", "code": 400}, 400, "boom", None),
        ({"error": {"code": 401, "message": "key topsecret"}}, 502, None, "upstream_auth_failed"),
        ({"error": {}}, 502, "The provider gave no reason.", None),
        ({"error": "topsecret"}, 502, "***", None),
    ],
)
def test_an_error_with_status_200_is_an_error(body: Any, status: int, message: str | None, code: str | None) -> None:
    with pytest.raises(UpstreamRefused) as caught:
        check_answer(200, "application/json", raw(body), CHAT, secrets=["topsecret"])
    assert (caught.value.status, caught.value.code) == (status, code)
    assert message in (None, caught.value.message)
    assert "topsecret" not in caught.value.original + caught.value.message


def test_a_status_that_is_no_success_is_a_refusal() -> None:
    with pytest.raises(UpstreamRefused) as caught:
        check_answer(404, "application/json", b'{"detail":"Not Found"}', CHAT)
    assert (caught.value.status, caught.value.message) == (404, "Not Found")


def test_case_21_a_plain_answer_becomes_a_stream_with_the_same_text() -> None:
    wire = as_stream(raw(WHOLE), chat=True, wants_usage=False)
    assert wire.endswith(DONE)
    first, last = told(wire)
    assert first["choices"] == [
        {"index": 0, "delta": WHOLE["choices"][0]["message"], "logprobs": None, "finish_reason": None}
    ]
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    for chunk in (first, last):
        assert {name: chunk[name] for name in ("id", "object", "created", "model", "service_tier")} == {
            "id": WHOLE["id"],
            "object": "chat.completion.chunk",
            "created": 1741569952,
            "model": "gpt-4.1-2025-04-14",
            "service_tier": "default",
        }
        assert "usage" not in chunk


def test_case_21_usage_comes_in_its_own_chunk_where_it_is_asked_for() -> None:
    chunks = told(as_stream(raw(WHOLE), chat=True, wants_usage=True))
    assert [chunk["usage"] for chunk in chunks] == [None, None, WHOLE["usage"]]
    assert chunks[2]["choices"] == []


def test_case_21_what_it_makes_is_what_the_relay_lets_pass() -> None:
    pretty = raw(WHOLE, indent=2).replace(b"\n", b"\r\n")
    wire = as_stream(pretty, chat=True, wants_usage=True)
    relay = ChatRelay(chat=True, wants_usage=True)
    assert relay.feed(wire) == wire
    assert (relay.done, relay.usage, relay.end()) == (True, Usage(19, 10), b"")


def test_case_21_tool_calls_get_their_index_and_text_for_arguments() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": CALLS}
    body = raw({**WHOLE, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]})
    first, last = told(as_stream(body, chat=True, wants_usage=False))
    calls = first["choices"][0]["delta"]["tool_calls"]
    assert calls[0] == {"index": 0, **CALLS[0]}
    assert (calls[1]["index"], calls[1]["function"]) == (1, {"name": "g", "arguments": '{"b": 2}'})
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_case_21_every_choice_is_told_and_ends() -> None:
    choices = [{"message": {"content": text}, "finish_reason": None} for text in ("a", "b")]
    chunks = told(as_stream(raw({"choices": choices}), chat=True, wants_usage=False))
    assert [chunk["choices"][0]["index"] for chunk in chunks] == [0, 0, 1, 1]
    assert chunks[2]["choices"][0]["delta"] == {"role": "assistant", "content": "b"}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, "stop", None, "stop"]
    assert chunks[0]["id"].startswith("chatcmpl-")
    assert {chunk["id"] for chunk in chunks} == {chunks[0]["id"]}


def test_case_21_completions_become_text_chunks() -> None:
    choice = {"text": "Hi", "index": 0, "logprobs": None, "finish_reason": "length"}
    body = raw({**WHOLE, "object": "text_completion", "choices": [choice]})
    first, last = told(as_stream(body, chat=False, wants_usage=False))
    assert first["choices"] == [{**choice, "finish_reason": None}]
    assert last["choices"] == [{**choice, "text": ""}]
    assert first["object"] == "text_completion"


@pytest.mark.parametrize("choices", [[1], [None], [{"message": "x"}], [{"message": {"tool_calls": 1}}]])
def test_choices_that_are_none_are_refused(choices: Any) -> None:
    with pytest.raises(UpstreamInvalid):
        as_stream(raw({"choices": choices}), chat=True, wants_usage=False)


# 0.25, -0.5 and 1.0 as IEEE 754 singles, little-endian, in base64.
PACKED = "AACAPgAAAL8AAIA/"


def test_case_40_numbers_become_the_base64_that_was_asked_for_and_all_else_stays() -> None:
    body = (
        b'{"object":"list","data":[{"object":"embedding","embedding":[0.25,-0.5,1],"index":0},'
        b'{"index":1,"embedding":"%b"}],"model":"m","usage":{"prompt_tokens":5,"total_tokens":5},"x":1e-7}'
    ) % PACKED.encode()
    assert with_base64(body) == body.replace(b"[0.25,-0.5,1]", b'"%b"' % PACKED.encode())


@pytest.mark.parametrize("data", [b'[{"embedding":"AACAPg=="}]', b"[]", b'[{"index": 0}]'])
def test_case_40_an_answer_without_numbers_passes_byte_for_byte(data: bytes) -> None:
    body = b'{"data": %b, "model": "m"}' % data
    assert with_base64(body) is body


@pytest.mark.parametrize("data", [b"[1]", b'[{"embedding":["a"]}]', b'[{"embedding":[[1]]}]'])
def test_data_that_are_no_embeddings_are_refused(data: bytes) -> None:
    with pytest.raises(UpstreamInvalid):
        with_base64(b'{"data":%b}' % data)
