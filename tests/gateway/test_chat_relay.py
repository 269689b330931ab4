"""What a client gets of one upstream stream, byte for byte.

The chunks follow https://platform.openai.com/docs/api-reference/chat-streaming/streaming; other providers' are cited.
"""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import StreamInterrupted, UpstreamRefused
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE, EventSplitter, events, payload
from ledger.usage import Usage

USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 3,
    "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
COUNTED = Usage(tokens_in=9, tokens_out=3, tokens_cached=4, tokens_reasoning=1)


def event(*choices: dict[str, Any], **fields: Any) -> bytes:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "gpt-4o"}
    return b"data: " + json.dumps({**head, "choices": choices, **fields}, separators=(",", ":")).encode() + b"\n\n"


def choice(delta: Any, finish: str | None = None, index: int = 0) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


ROLE = {"role": "assistant", "content": "", "refusal": None}
START = event(choice(ROLE))
HELLO = event(choice({"content": "Hello"}))
STOP = event(choice({}, "stop"))
USED = event(usage=USAGE)
NULLED = [event(choice(ROLE), usage=None), event(choice({"content": "Hello"}), usage=None)]
NULLED += [event(choice({}, "stop"), usage=None)]


def relay(*parts: bytes, wants_usage: bool = False, choices: int = 1, chat: bool = True) -> tuple[bytes, ChatRelay]:
    stream = ChatRelay(chat=chat, wants_usage=wants_usage, choices=choices, model="alias")
    out = b"".join(stream.feed(part) for part in parts)
    return out + stream.end(), stream


def chunks(wire: bytes) -> list[Any]:
    return [json.loads(payload(part)) for part in events(wire) if part != DONE]


def test_what_is_right_already_passes_untouched() -> None:
    parts = [START, HELLO, STOP, DONE]
    stream = ChatRelay(chat=True, wants_usage=False)
    for part in parts:
        assert stream.feed(part) == part
    assert (stream.done, stream.finished, stream.usage, stream.end()) == (True, True, None, b"")


def test_case_16_usage_in_its_own_chunk_passes_untouched() -> None:
    wire = b"".join([*NULLED, USED, DONE])
    out, stream = relay(wire, wants_usage=True)
    assert out == wire
    assert stream.usage == COUNTED


def test_case_17_a_client_that_did_not_ask_sees_no_usage() -> None:
    out, stream = relay(*NULLED, USED, DONE)
    assert out == START + HELLO + STOP + DONE
    assert stream.usage == COUNTED


@pytest.mark.parametrize("spelling", [b',"usage": null', b', "usage" : null', b'\t,"usage":\tnull'])
def test_case_17_any_spelling_of_null_usage_is_hidden(spelling: bytes) -> None:
    out, _ = relay(*[part.replace(b',"usage":null', spelling) for part in NULLED], USED, DONE)
    assert out == START + HELLO + STOP + DONE


def test_case_17_usage_that_comes_first_in_a_chunk_is_hidden() -> None:
    out, _ = relay(START, HELLO.replace(b'{"id"', b'{"usage":null,"id"', 1), STOP, DONE)
    assert out == START + HELLO + STOP + DONE


def test_case_17_text_that_reads_like_usage_stays() -> None:
    text = event(choice({"content": 'say ,"usage":null and "usage":{"a":1} and "error" or data: [DONE]\n\n'}))
    also = event(choice({"content": "usage"}))
    for wants_usage in (True, False):
        assert relay(START, text, also, STOP, DONE, wants_usage=wants_usage)[0] == START + text + also + STOP + DONE


def test_case_16_usage_on_the_finish_chunk_moves_to_its_own_chunk() -> None:
    out, stream = relay(START, HELLO, event(choice({}, "stop"), usage=USAGE), DONE, wants_usage=True)
    assert out == START + HELLO + event(choice({}, "stop"), usage=None) + USED + DONE
    assert stream.usage == COUNTED


def test_case_17_usage_on_the_finish_chunk_is_hidden() -> None:
    out, stream = relay(START, HELLO, event(choice({}, "stop"), usage=USAGE), DONE)
    assert out == START + HELLO + STOP + DONE
    assert stream.usage == COUNTED


def test_case_16_usage_that_grows_with_every_chunk_comes_once() -> None:
    growing = [{**USAGE, "completion_tokens": n} for n in (1, 2, 3)]
    deltas = [choice(ROLE), choice({"content": "Hello"}), choice({}, "stop")]
    parts = [event(delta, usage=usage) for delta, usage in zip(deltas, growing, strict=True)]
    out, stream = relay(*parts, event(usage=growing[-1]), DONE, wants_usage=True)
    assert [chunk["usage"] for chunk in chunks(out)] == [None, None, None, USAGE]
    assert stream.usage == COUNTED


def test_usage_without_a_single_count_counts_as_none() -> None:
    out, stream = relay(START, event(choice({"content": "Hello"}), usage={"traffic": "x"}), STOP, USED, DONE)
    assert out == START + HELLO + STOP + DONE
    assert stream.usage == COUNTED


def test_a_usage_chunk_without_choices_gets_an_empty_list() -> None:
    bare = b'data: {"id":"","usage":{"prompt_tokens":1,"completion_tokens":2.0}}\n\n'
    out, stream = relay(START, STOP, bare, DONE, wants_usage=True)
    assert chunks(out)[2]["choices"] == []
    assert chunks(out)[2]["id"] == "chatcmpl-1"
    assert stream.usage == Usage(1, 2)


def test_groq_reports_usage_of_its_own_and_it_stays() -> None:
    # https://console.groq.com/docs/api-reference#chat-create
    last = event(choice({}, "stop"), x_groq={"id": "req_1", "usage": USAGE})
    out, stream = relay(START, last, DONE)
    assert out == START + last + DONE
    assert stream.usage == COUNTED


def test_case_12_done_is_added_after_a_clean_end() -> None:
    assert relay(START, HELLO, STOP)[0] == START + HELLO + STOP + DONE
    assert relay(START, STOP, USED, wants_usage=True)[0] == START + STOP + USED + DONE


def test_case_12_without_a_finish_reason_there_is_no_clean_end() -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    assert stream.feed(START + HELLO) == START + HELLO
    with pytest.raises(StreamInterrupted):
        stream.end()
    assert stream.done is False


def test_case_12_nothing_passes_after_done() -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    assert stream.feed(START + STOP + DONE + HELLO) == START + STOP + DONE
    assert stream.feed(HELLO) == b""
    assert stream.end() == b""


def test_a_last_event_without_its_blank_line_is_relayed() -> None:
    assert relay(START, HELLO, STOP[:-2])[0] == START + HELLO + STOP + DONE
    assert relay(START, HELLO, STOP, b"data: [DONE]")[0] == START + HELLO + STOP + DONE


def test_case_19_half_an_event_at_the_end_is_an_interruption() -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    stream.feed(START + STOP + HELLO[:60])
    with pytest.raises(StreamInterrupted) as caught:
        stream.end()
    assert caught.value.code == "stream_interrupted"


def test_case_15_the_first_chunk_of_each_choice_gets_a_role() -> None:
    parts = [event(choice({"content": str(i)}, index=i)) for i in (1, 0, 1)]
    stops = [event(choice({}, "stop", index=i)) for i in (0, 1)]
    out, stream = relay(*parts, *stops, DONE, choices=2)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(out)]
    assert deltas[:2] == [{"role": "assistant", "content": "1"}, {"role": "assistant", "content": "0"}]
    assert out.endswith(parts[2] + stops[0] + stops[1] + DONE)
    assert stream.finished


def test_case_45_three_choices_have_three_endings_one_usage_and_one_done() -> None:
    order = [2, 0, 1, 1, 0, 2]
    wire = b"".join(event(choice({"role": "assistant", "content": str(i)}, index=n)) for i, n in enumerate(order))
    wire += b"".join(event(choice({}, "stop", index=n)) for n in (1, 2, 0)) + USED + DONE
    out, stream = relay(wire, choices=3, wants_usage=True)
    assert out == wire
    assert stream.finished


def test_a_choice_that_has_not_ended_is_not_finished() -> None:
    stream = ChatRelay(chat=True, wants_usage=False, choices=2)
    stream.feed(event(choice(ROLE), choice(ROLE, index=1)) + STOP)
    assert not stream.finished
    stream.feed(event(choice({}, "length", index=1)))
    assert stream.finished


@pytest.mark.parametrize("space", [b"", b" "])
def test_nulls_that_clients_trip_over_are_mended(space: bytes) -> None:
    def spaced(part: bytes) -> bytes:
        return part.replace(b'":', b'":' + space)

    no_delta, no_choices = choice(None), event().replace(b"[]", b"null")
    broken = [event(choice(ROLE)), event(no_delta), no_choices, event(choice({"content": "x"}), error=None), STOP, DONE]
    out, stream = relay(*map(spaced, broken))
    told = chunks(out)
    assert told[1]["choices"][0]["delta"] == {}
    assert told[2]["choices"] == []
    assert "error" not in told[3]
    assert told[3]["choices"][0]["delta"] == {"content": "x"}
    assert stream.done


@pytest.mark.parametrize(
    ("said", "message", "kind", "code"),
    [
        ({"error": {"message": "boom", "type": "server_error", "code": "x"}}, "boom", "server_error", "x"),
        ({"error": "boom", "error_type": "generation"}, "boom", "generation", None),
        (
            {"object": "error", "message": "boom", "type": "BadRequestError", "code": 400},
            "boom",
            "BadRequestError",
            None,
        ),
        ({"type": "error", "code": "server_error", "message": "boom", "param": None}, "boom", "error", "server_error"),
        # https://openrouter.ai/docs/api-reference/errors
        ({"id": "1", "error": {"code": 502, "message": "boom"}, "choices": []}, "boom", "upstream_error", None),
    ],
)
def test_case_18_an_error_in_the_stream_ends_it(said: Any, message: str, kind: str, code: str | None) -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    wire = START + b"event: error\ndata: " + json.dumps(said).encode() + b"\n\n" + HELLO + DONE
    out = stream.feed(wire)
    assert out.startswith(START)
    assert chunks(out)[1:] == [{"error": {"message": message, "type": kind, "param": None, "code": code}}]
    assert isinstance(stream.failed, UpstreamRefused)
    assert (stream.feed(HELLO), stream.end(), stream.done) == (b"", b"", False)


def test_case_35_a_secret_in_an_error_event_is_masked() -> None:
    stream = ChatRelay(chat=True, wants_usage=False, secrets=("topsecret",))
    out = stream.feed(b'data: {"error":{"message":"key topsecret or sk-abcdefghijkl"}}\n\n')
    assert chunks(out)[0]["error"]["message"] == "key *** or ***"


def test_an_event_that_is_no_json_ends_the_stream_with_an_error() -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    assert chunks(stream.feed(b"data: hello\n\n"))[0]["error"]["code"] == "upstream_invalid_response"


def test_case_46_foreign_fields_reach_the_client_unchanged() -> None:
    head = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{'
    parts = [
        head
        + b'"role":"assistant","content":""},"finish_reason":null}],"service_tier":"default","obfuscation":"aX"}\n\n',
        head
        + b'"reasoning_content":"h\\u00e4","annotations":[1e-7]},"logprobs":{"content":[]},"finish_reason":null}]}\n\n',
        head + b'"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f","arguments":""},'
        b'"extra_content":{"google":{"s":1.0}}}]},"finish_reason":null}],"x_groq":{}}\n\n',
        head + b'},"finish_reason":"stop"}],"n":1152921504606846976000,"system_fingerprint":"fp"}\n\n',
    ]
    assert relay(*parts, DONE)[0] == b"".join(parts) + DONE
    mended = parts[3].replace(b"}\n\n", b',"usage":{"total_tokens":1}}\n\n')
    assert relay(*parts[:3], mended, DONE)[0] == b"".join(parts) + DONE


def test_azure_filter_results_pass_before_the_first_chunk() -> None:
    # https://learn.microsoft.com/azure/ai-services/openai/concepts/content-streaming
    filtered = b'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[]}\n\n'
    assert relay(filtered, START, HELLO, STOP, DONE)[0] == filtered + START + HELLO + STOP + DONE


def test_chunks_without_identity_all_get_the_same() -> None:
    # https://github.com/predibase/lorax, router/src/lib.rs: "id":"null", "model":"null", "created":0
    head = b'data: {"id":"null","object":"text_completion","created":0,"model":"null","choices":[{"index":0,"delta":{'
    parts = [head + b'"role":"assistant","content":"%d"},"finish_reason":%s}]}\n\n' % pair for pair in PAIRS]
    told = chunks(relay(*parts, DONE)[0])
    assert len({chunk["id"] for chunk in told}) == 1
    assert told[0]["id"].startswith("chatcmpl-")
    assert {chunk["model"] for chunk in told} == {"alias"}
    assert len({chunk["created"] for chunk in told}) == 1
    assert told[0]["created"] > 1_700_000_000


PAIRS = [(0, b"null"), (1, b"null"), (2, b'"stop"')]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_case_11_bytewise_and_in_any_line_end(end: bytes) -> None:
    wire = (START + b": ping\n\n" + HELLO + STOP + USED + DONE).replace(b"\n", end)
    out, _ = relay(*[wire[i : i + 1] for i in range(len(wire))], wants_usage=True)
    assert out == START + HELLO + STOP + USED + DONE


def test_completions_take_the_same_way() -> None:
    def text(words: str, finish: str | None = None, **fields: Any) -> bytes:
        part = {"index": 0, "text": words, "logprobs": None, "finish_reason": finish}
        return event(part, object="text_completion", **fields)

    parts = [text("Hel"), text("lo"), text("", "stop")]
    out, stream = relay(*parts[:2], text("", "stop", usage=USAGE), chat=False)
    assert out == b"".join(parts) + DONE
    assert stream.usage == COUNTED
    assert relay(*parts, event(object="text_completion", usage=USAGE), DONE, chat=False, wants_usage=True)[0] == (
        b"".join(parts) + event(object="text_completion", usage=USAGE) + DONE
    )


def test_an_estimate_counts_events_or_a_quarter_of_the_text() -> None:
    stream = ChatRelay(chat=True, wants_usage=False)
    out = stream.feed(START) + b"".join(stream.feed(HELLO) for _ in range(10))
    assert (stream.events_relayed, stream.bytes_relayed) == (11, len(out))
    assert stream.estimate(41) == Usage(tokens_in=41, tokens_out=10)
    stream.feed(event(choice({"content": "x" * 4000})))
    assert stream.estimate().tokens_out == 1013
    stream.feed(STOP)
    assert stream.estimate().tokens_out == 1013


def test_padding_does_not_count_as_text() -> None:
    padded = [event(choice(delta), obfuscation="x" * 400) for delta in (ROLE, {"content": "a"})]
    assert relay(*padded, STOP)[1].estimate().tokens_out == 1


def test_memory_does_not_grow_with_the_stream() -> None:
    stream = ChatRelay(chat=True, wants_usage=True)
    stream.feed(START)
    for index in range(5000):
        stream.feed(event(choice({"content": "x"}, "stop", index=index), usage=USAGE))
    kept = [getattr(stream, name) for name in ("_roles", "_finished", "_usage_event", "_identity")]
    assert all(len(value) <= 1024 for value in kept)
    assert isinstance(stream._splitter, EventSplitter)


PIECES = [START, HELLO, STOP, USED, *NULLED, event(choice({}, "stop"), usage=USAGE), event(choice(None)), b": c\n\n"]
PIECES += [event(error=None), event().replace(b"[]", b"null"), b"data:\n\n", event(choice({"content": "x"}, index=1))]
PIECES += [HELLO.replace(b'":', b'": '), STOP.replace(b'":', b'": '), DONE, b'data: {"error":"boom"}\n\n']


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8), st.booleans(), st.integers(1, 2), st.data())
def test_what_goes_out_does_not_depend_on_the_cuts(
    pieces: list[bytes], wants_usage: bool, choices: int, data: st.DataObject
) -> None:
    def run(parts: list[bytes]) -> tuple[object, ...]:
        stream = ChatRelay(chat=True, wants_usage=wants_usage, choices=choices)
        out = b"".join(map(stream.feed, parts))
        try:
            return out + stream.end(), stream.usage, stream.done
        except StreamInterrupted:
            return out, stream.usage, False

    wire = b"".join(pieces)
    cut = data.draw(st.integers(0, len(wire)))
    whole = run([wire])
    assert run([wire[:cut], wire[cut:]]) == whole == run([bytes([byte]) for byte in wire]) == run(pieces)
    out = whole[0]
    assert isinstance(out, bytes)
    assert out.count(DONE) == whole[2]
    assert out.count(b'"usage":{') <= wants_usage
    assert wants_usage or b'"usage":' not in out
