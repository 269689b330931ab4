"""What clients trip over inside a choice, and what they get instead; the rows are measured ones."""

import json
from typing import Any

import pytest

from gateway.errors import UpstreamRefused
from gateway.replies.answers import check_answer
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE, events, payload
from ledger.usage import Usage
from providers import quirks
from providers.targets import NO_QUIRKS, Quirks

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}


def event(delta: Any, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({**HEAD, "choices": [choice], **fields}, separators=(",", ":")).encode() + b"\n\n"


ROLE = event({"role": "assistant", "content": None})
STOP = event({}, "stop")


def stream(*parts: bytes, declared: Quirks = NO_QUIRKS, wants_usage: bool = False) -> tuple[bytes, ChatRelay]:
    relay = ChatRelay(chat=True, wants_usage=wants_usage, quirks=declared)
    return b"".join(map(relay.feed, parts)) + relay.end(), relay


def deltas(wire: bytes) -> list[Any]:
    told = [json.loads(payload(part)) for part in events(wire) if part != DONE]
    return [choice["delta"] for chunk in told for choice in chunk["choices"]]


def calls(*pieces: Any) -> list[Any]:
    """The pieces that go out for those that come in, each in a chunk of its own."""
    wire, _ = stream(ROLE, *(event({"tool_calls": [piece]}) for piece in pieces), event({}, "tool_calls"), DONE)
    return [piece for delta in deltas(wire) for piece in delta.get("tool_calls", [])]


def call(arguments: Any = "", **fields: Any) -> dict[str, Any]:
    """The first piece of a call, as OpenAI sends it."""
    function = {"name": fields.pop("name", "f"), "arguments": arguments}
    return {"index": 0, "id": "call_1", "type": "function", "function": function, **fields}


def more(arguments: str, index: int = 0) -> dict[str, Any]:
    return {"index": index, "function": {"arguments": arguments}}


def test_calls_as_openai_sends_them_pass_byte_for_byte() -> None:
    pieces = [call(), more('{"a":'), more(' "}]"}'), call(index=1, id="call_2", name="g"), more("{}", 1), more("}")]
    parts = [ROLE, *(event({"tool_calls": [piece]}) for piece in pieces), event({}, "tool_calls"), DONE]
    assert stream(*parts)[0] == b"".join(parts)


def test_later_pieces_of_a_call_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = ChatRelay(chat=True, wants_usage=False)
    begun = [ROLE, event({"tool_calls": [call()]})]
    assert b"".join(map(relay.feed, begun)) == b"".join(begun)
    monkeypatch.setattr(relay, "_mended", None)
    piece = event({"tool_calls": [more('{"text": "\\"tool_calls\\": [{"')]})
    assert relay.feed(piece) == piece


def test_a_call_without_an_index_gets_one() -> None:
    # https://ai.google.dev/gemini-api/docs/openai: whole calls, each with its id
    one, two = call("{}"), call("{}", id="call_2", name="g")
    del one["index"], two["index"]
    assert calls(one, two) == [{"index": 0, **one}, {"index": 1, **two}]


def test_pieces_without_index_and_id_belong_to_the_last_call() -> None:
    begun = call()
    del begun["index"]
    assert calls(begun, {"function": {"arguments": "{}"}}) == [{"index": 0, **begun}, more("{}")]


def test_calls_without_index_and_id_begin_with_their_names_and_get_ids() -> None:
    made = calls({"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g", "arguments": "{}"}})
    assert [(piece["index"], piece["type"], piece["function"]["name"]) for piece in made] == [
        (0, "function", "f"),
        (1, "function", "g"),
    ]
    assert all(piece["id"].startswith("call_") for piece in made)
    assert made[0]["id"] != made[1]["id"]


def test_id_type_and_name_come_once() -> None:
    assert calls(call("{"), call("}")) == [call("{"), more("}")]


def test_nulls_in_later_pieces_go() -> None:
    later = {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": "{}"}}
    assert calls(call(), later) == [call(), more("{}")]


def test_two_calls_with_the_same_index_and_different_ids_are_two() -> None:
    made = calls(call("{}"), call("{", id="call_2", name="g"), more("}"))
    assert made == [call("{}"), call("{", index=1, id="call_2", name="g"), more("}", 1)]


def test_arguments_that_are_no_text_become_one() -> None:
    assert calls(call({"city": "Paris"}))[0]["function"]["arguments"] == '{"city":"Paris"}'
    assert calls(call(None))[0]["function"]["arguments"] == ""
    nameless = calls({"index": 0, "id": "call_1", "function": {"name": "f"}})
    assert nameless == [call()]


def test_calls_of_two_choices_do_not_mix() -> None:
    parts = [event({"role": "assistant", "tool_calls": [call()]}), event({"tool_calls": [call(id="b")]}, index=1)]
    relay = ChatRelay(chat=True, wants_usage=False, choices=2)
    out = b"".join(map(relay.feed, parts))
    assert [delta["tool_calls"][0]["index"] for delta in deltas(out)] == [0, 0]


def test_memory_does_not_grow_with_the_calls() -> None:
    relay = ChatRelay(chat=True, wants_usage=False)
    relay.feed(ROLE)
    for number in range(6000):
        relay.feed(event({"tool_calls": [call(index=number, id=f"call_{number}")]}))
    assert relay._tools is not None
    assert len(relay._tools._ids) + len(relay._tools._places) <= 4098


def test_a_whole_answers_calls_are_mended_too() -> None:
    given = [{"function": {"name": "f", "arguments": {"a": 1}}}]
    message = {"content": None, "tool_calls": given}
    body = {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    told = json.loads(check_answer(200, "", json.dumps(body).encode(), "chat.completions").body)
    [made] = told["choices"][0]["message"]["tool_calls"]
    assert made["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert made["type"] == "function"
    assert made["id"].startswith("call_")
    assert told["choices"][0]["message"]["role"] == "assistant"


FINISH = [
    ("eos_token", {}, "stop"),
    ("eos", {}, "stop"),
    ("end_turn", {}, "stop"),
    ("STOP", {}, "stop"),
    ("max_tokens", {}, "length"),
    ("model_length", {}, "length"),
    ("tool_use", {}, "tool_calls"),
    ("guardrail_intervened", {}, "content_filter"),
    ("something new", {}, "stop"),
    ("content_filter", {}, "content_filter"),
    ("content_filter", {"content_filter": "stop"}, "stop"),
    ("custom", {"custom": "length"}, "length"),
]


@pytest.mark.parametrize(("said", "own", "told"), FINISH)
def test_finish_reasons_come_in_openais_words(said: str, own: dict[str, str], told: str) -> None:
    declared = quirks.parse({"finish": own})
    wire, relay = stream(ROLE, event({}, said), declared=declared)
    assert wire == ROLE + event({}, told) + DONE
    assert relay.finished
    body = json.dumps({"choices": [{"index": 0, "finish_reason": said, "text": ""}]}).encode()
    whole = check_answer(200, "", body, "completions", quirks=declared).body
    assert json.loads(whole)["choices"][0]["finish_reason"] == told


def test_an_empty_finish_reason_is_none_yet() -> None:
    wire, _ = stream(ROLE, event({"content": "x"}, ""), STOP, DONE)
    assert wire == ROLE + event({"content": "x"}) + STOP + DONE


def test_an_answer_that_ended_in_an_error_is_one() -> None:
    # https://docs.mistral.ai/api/#tag/chat: finish_reason may be "error"
    relay = ChatRelay(chat=True, wants_usage=False)
    out = relay.feed(ROLE + event({}, "error") + DONE)
    assert json.loads(payload(out[len(ROLE) :]))["error"]["message"] == "The provider ended its answer with an error."
    assert isinstance(relay.failed, UpstreamRefused)
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "error"}]}).encode()
    with pytest.raises(UpstreamRefused) as caught:
        check_answer(200, "", body, "chat.completions")
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("policy", "given", "told"),
    [
        ("reasoning_content", {"reasoning": "hm"}, {"reasoning_content": "hm"}),
        ("reasoning", {"reasoning_content": "hm"}, {"reasoning": "hm"}),
        ("reasoning", {"reasoning": "hm"}, {"reasoning": "hm"}),
        ("", {"reasoning": "hm"}, {"reasoning": "hm"}),
        ("", {"reasoning_content": "hm"}, {"reasoning_content": "hm"}),
        ("reasoning", {"reasoning": "a", "reasoning_content": "b"}, {"reasoning": "a", "reasoning_content": "b"}),
    ],
)
def test_reasoning_comes_in_the_field_that_the_row_asks_for(policy: str, given: Any, told: Any) -> None:
    declared = quirks.parse({"reasoning": policy} if policy else {})
    wire, _ = stream(ROLE, event(given), STOP, DONE, declared=declared)
    assert deltas(wire)[1] == told
    message = {"role": "assistant", "content": "x"}
    body = {"choices": [{"index": 0, "message": {**message, **given}, "finish_reason": "stop"}]}
    whole = check_answer(200, "", json.dumps(body).encode(), "chat.completions", quirks=declared).body
    assert json.loads(whole)["choices"][0]["message"] == {**message, **told}


def test_content_in_parts_becomes_text_and_its_thinking_reasoning() -> None:
    # https://docs.mistral.ai/capabilities/reasoning/
    declared = quirks.parse({"fixups": ["content_parts"]})
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    image = [{"type": "image_url", "image_url": "x"}]
    pieces = [event({"content": given}) for given in ([thinking], parts, "c", image)]
    wire, _ = stream(ROLE, *pieces, STOP, DONE, declared=declared)
    assert deltas(wire)[1:5] == [
        {"content": "", "reasoning_content": "hm"},
        {"content": "ab"},
        {"content": "c"},
        {"content": image},
    ]
    assert deltas(stream(ROLE, pieces[0], STOP, DONE)[0])[1] == {"content": [thinking]}


def test_chunks_without_choices_go_where_the_row_says_so() -> None:
    # https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-streaming
    filtered = b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}\n\n'
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    used = b"data: " + json.dumps({**HEAD, "choices": [], "usage": usage}, separators=(",", ":")).encode() + b"\n\n"
    declared = quirks.parse({"fixups": ["empty_choices"]})
    wire, relay = stream(filtered, ROLE, filtered, STOP, used, DONE, declared=declared, wants_usage=True)
    assert wire == ROLE + STOP + used + DONE
    assert relay.usage == Usage(1, 2)


def test_usage_from_elsewhere_is_counted_and_given_to_who_asked() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    declared = quirks.parse({"usage_path": "meta.billed"})
    last = event({}, "stop", meta={"billed": usage})
    wire, relay = stream(ROLE, last, DONE, declared=declared, wants_usage=True)
    assert relay.usage == Usage(9, 3)
    told = [json.loads(payload(part)) for part in events(wire) if part != DONE]
    assert told[-1] == {**HEAD, "choices": [], "usage": usage}
    assert stream(ROLE, last, DONE, declared=declared)[0] == ROLE + last + DONE
    body = json.dumps({"choices": [], "meta": {"billed": usage}}).encode()
    assert check_answer(200, "", body, "chat.completions", quirks=declared).usage == Usage(9, 3)
    assert check_answer(200, "", b'{"choices":[],"meta":1}', "chat.completions", quirks=declared).usage is None


def test_an_answer_with_a_placeholder_for_a_name_gets_one() -> None:
    # https://github.com/predibase/lorax, router/src/lib.rs: ChatCompletionResponse::new
    body = b'{"id":"null","object":"text_completion","created":0,"model":"null","choices":[]}'
    told = json.loads(check_answer(200, "", body, "chat.completions", model="fast").body)
    assert told["id"].startswith("chatcmpl-")
    assert (told["object"], told["model"]) == ("chat.completion", "fast")
    assert told["created"] > 1_700_000_000
