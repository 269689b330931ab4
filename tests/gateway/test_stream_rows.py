"""Row by row what the clients' parsers choke on, measured with their own libraries, and what they get instead.

Then all of it at once, cut at every place: what goes out depends on the bytes and on nothing else.
"""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import StreamInterrupted
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE
from providers import quirks

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def line(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


def event(delta: Any, finish: str | None = None, **fields: Any) -> bytes:
    return line({**HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **fields})


def tool(**fields: Any) -> dict[str, Any]:
    return {"tool_calls": [fields]}


ROLE, HELLO, STOP = event({"role": "assistant", "content": ""}), event({"content": "Hello"}), event({}, "stop")
USED = line({**HEAD, "choices": [], "usage": USAGE})
GOOD = ROLE + HELLO + STOP + DONE
F = {"name": "f", "arguments": ""}
CALL = event(tool(index=0, id="a", type="function", function=F))
MORE = event(tool(index=0, function={"arguments": "{}"}))
CALLED = event({}, "tool_calls")
LINES = event({"content": "a\u2028b"})
NO_INDEX = event(tool(id="a", type="function", function=F))
OBJECT = event(tool(index=0, id="a", type="function", function={"name": "f", "arguments": {"b": 1}}))
TEXT = event(tool(index=0, id="a", type="function", function={"name": "f", "arguments": '{"b":1}'}))
THOUGHT, ELSEWHERE = event({"reasoning_content": "hm"}), event({}, "stop", x_groq={"usage": USAGE})
ALL = quirks.parse(
    {
        "fixups": ["content_parts", "empty_choices"],
        "reasoning": "reasoning_content",
        "finish": {"content_filter": "stop"},
        "usage_path": "x_groq.usage",
    }
)
BARE = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
NAMELESS = {"id": "null", "object": "text_completion", "created": 0, "model": "null"}

# (the row, what the provider sends, what the client gets)
ROWS: list[tuple[str, bytes, bytes]] = [
    ("CRLF", GOOD.replace(b"\n", b"\r\n"), GOOD),
    ("CR", GOOD.replace(b"\n", b"\r"), GOOD),
    ("no space after the colon", GOOD.replace(b"data: ", b"data:"), GOOD),
    ("U+2028 inside JSON", ROLE + LINES + STOP, ROLE + LINES + STOP + DONE),
    ("JSON over two lines", ROLE + HELLO.replace(b',"choices', b',\ndata: "choices', 1) + STOP, b""),
    ("comments", b": ping\n\n" + ROLE + b":\n\n" + HELLO + STOP + DONE, GOOD),
    ("id and retry", b"id: 1\n" + ROLE + b"retry: 1000\n\n: x\n\n" + HELLO + b"id: 2\n\n" + STOP + DONE, GOOD),
    ("ping without data", ROLE + b"event: ping\n\n" + HELLO + STOP + DONE, GOOD),
    ("ping with data", ROLE + b"event: ping\ndata: {}\n\n" + HELLO + STOP + DONE, GOOD),
    ("empty data", ROLE + b"data:\n\n" + HELLO + b"data: \n\n" + STOP + DONE, GOOD),
    ("byte order mark", b"\xef\xbb\xbf" + GOOD, GOOD),
    ("[DONE] and a space", ROLE + HELLO + STOP + b"data: [DONE] \n\n", GOOD),
    ("anything after [DONE]", GOOD + HELLO + b"junk", GOOD),
    ("no [DONE]", ROLE + HELLO + STOP, GOOD),
    ("last event without its blank line", ROLE + HELLO + STOP[:-2], GOOD),
    ("error null", ROLE + event({"content": "Hello"}, error=None) + STOP, GOOD),
    ("choices null, where empty ones are left out", ROLE + line({**HEAD, "choices": None}) + STOP, ROLE + STOP + DONE),
    ("delta null", ROLE + event(None) + STOP, ROLE + event({}) + STOP + DONE),
    ("no role", HELLO + STOP, event({"role": "assistant", "content": "Hello"}) + STOP + DONE),
    ("no id, object, created, model", line(BARE) + line(BARE) + line({"choices": [{"finish_reason": "stop"}]}), b""),
    ("no index of a tool call", ROLE + NO_INDEX + CALLED, ROLE + CALL + CALLED + DONE),
    (
        "id and name in every piece",
        ROLE + CALL + event(tool(index=0, id="a", type="function", function={**F, "arguments": "{}"})) + CALLED,
        ROLE + CALL + MORE + CALLED + DONE,
    ),
    (
        "id and name null later",
        ROLE + CALL + event(tool(index=0, id=None, function={"name": None, "arguments": "{}"})) + CALLED,
        ROLE + CALL + MORE + CALLED + DONE,
    ),
    (
        "two calls with one index",
        ROLE + CALL + event(tool(index=0, id="b", type="function", function=F)) + MORE + CALLED,
        ROLE
        + CALL
        + event(tool(index=1, id="b", type="function", function=F))
        + event(tool(index=1, function={"arguments": "{}"}))
        + CALLED
        + DONE,
    ),
    ("arguments as an object", ROLE + OBJECT + CALLED, ROLE + TEXT + CALLED + DONE),
    ("usage in every chunk", event({"role": "assistant"}, usage=USAGE) + event({}, "stop", usage=USAGE), b""),
    ("usage on the finish chunk", ROLE + HELLO + event({}, "stop", usage=USAGE), ROLE + HELLO + STOP + DONE),
    ("azure's first chunk", line({"choices": [], "id": "", "prompt_filter_results": []}) + ROLE + HELLO + STOP, GOOD),
    ("another finish reason", ROLE + HELLO + event({}, "eos_token"), GOOD),
    ("a finish reason with another meaning", ROLE + HELLO + event({}, "content_filter"), GOOD),
    ("reasoning under another name", ROLE + event({"reasoning": "hm"}) + STOP, ROLE + THOUGHT + STOP + DONE),
    ("usage elsewhere", ROLE + ELSEWHERE, ROLE + ELSEWHERE + DONE),
    ("an error as text", ROLE + line({"error": "boom"}), b""),
    ("a flat error event", ROLE + b"event: error\n" + line({"type": "error", "message": "boom"}), b""),
]  # fmt: skip
SPECIAL: dict[str, Any] = {
    "JSON over two lines": lambda out: [chunk["choices"][0]["delta"] for chunk in told(out)][1] == {"content": "Hello"},
    "no id, object, created, model": lambda out: len({chunk["id"] for chunk in told(out)}) == 1,
    "usage in every chunk": lambda out: b'"usage"' not in out and out.endswith(DONE),
    "an error as text": lambda out: told(out)[-1]["error"]["message"] == "boom" and not out.endswith(DONE),
    "a flat error event": lambda out: told(out)[-1]["error"]["message"] == "boom" and not out.endswith(DONE),
}


def told(out: bytes) -> list[Any]:
    return [json.loads(part[6:]) for part in out.split(b"\n\n")[:-1] if part != b"data: [DONE]"]


def run(parts: list[bytes], *, wants_usage: bool = False) -> bytes:
    relay = ChatRelay(chat=True, wants_usage=wants_usage, quirks=ALL, model="m")
    out = b"".join(map(relay.feed, parts))
    try:
        out += relay.end()
    except StreamInterrupted:
        out += b"interrupted"
    # What is made anew each time is not what this is about.
    return re.sub(rb'"created":1[78]\d{8}|(chatcmpl-|call_)[0-9a-f]{24}', b"made", out)


@pytest.mark.parametrize(("name", "sent", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table(name: str, sent: bytes, expected: bytes) -> None:
    relay = ChatRelay(chat=True, wants_usage=False, quirks=ALL)
    out = relay.feed(sent) + relay.end()
    if name in SPECIAL:
        assert SPECIAL[name](out)
    else:
        assert out == expected


@pytest.mark.parametrize("wants_usage", [False, True])
@pytest.mark.parametrize(("name", "sent", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row_does_not_depend_on_where_it_is_cut(name: str, sent: bytes, expected: bytes, wants_usage: bool) -> None:
    whole = run([sent], wants_usage=wants_usage)
    for cut in range(1, len(sent)):
        assert run([sent[:cut], sent[cut:]], wants_usage=wants_usage) == whole
    assert run([sent[place : place + 1] for place in range(len(sent))], wants_usage=wants_usage) == whole


PIECES = [part + b"\n\n" for _, sent, _ in ROWS for part in sent.split(b"\n\n")[:-1] if b"\r" not in part]
PIECES += [USED, line({**HEAD, **NAMELESS, **BARE}), event({"content": [{"type": "text", "text": "x"}]}), DONE]
PIECES += [event({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]})]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=9), st.booleans(), st.data())
def test_any_rows_in_any_order_do_not_depend_on_the_cuts(
    pieces: list[bytes], wants_usage: bool, data: st.DataObject
) -> None:
    wire = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    parts = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    out = run(parts, wants_usage=wants_usage)
    assert out == run([wire], wants_usage=wants_usage) == run(pieces, wants_usage=wants_usage)
    assert out.count(DONE) <= 1
    assert out.count(b'"usage":{') - out.count(b'"x_groq":{"usage":{') <= wants_usage


def test_names_that_every_chunk_lacks_are_put_in_without_reading_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = ChatRelay(chat=True, wants_usage=False, model="fast")
    lorax = line({**NAMELESS, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "x"}}]})
    first = relay.feed(lorax)
    monkeypatch.setattr(relay, "_mended", None)
    later = relay.feed(lorax * 2)
    assert [chunk["id"] for chunk in told(first + later)] == [told(first)[0]["id"]] * 3
    assert told(first)[0]["id"].startswith("chatcmpl-")
    assert {chunk["model"] for chunk in told(later)} == {"fast"}
    assert {chunk["object"] for chunk in told(later)} == {"chat.completion.chunk"}


def test_reasoning_gets_its_name_without_reading_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = ChatRelay(chat=True, wants_usage=False, quirks=ALL)
    assert relay.feed(ROLE) == ROLE
    monkeypatch.setattr(relay, "_mended", None)
    assert relay.feed(event({"reasoning": 'a \\"}"reasoning":"'})) == event(
        {"reasoning_content": 'a \\"}"reasoning":"'}
    )
