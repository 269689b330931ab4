"""Whatever an upstream's event stream looks like, and wherever the network cuts it, clients get one form."""

import json
import time
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import StreamInterrupted, UpstreamTimeout
from gateway.replies import sse
from gateway.replies.sse import EventSplitter

CHUNKS = [{"a": 1}, {"text": "Grüße \u2028 \U0001f600"}, {"b": [None, "data: x", "\r\n"]}]
# JSON as most providers write it: not escaped beyond what JSON demands.
LINES = [json.dumps(chunk, ensure_ascii=False).encode() for chunk in CHUNKS]
CANONICAL = b"".join(b"data: " + line + b"\n\n" for line in LINES)


def split(data: bytes, *cuts: int, names: bool = False) -> bytes:
    splitter = EventSplitter(names=names)
    places = [0, *sorted(cuts), len(data)]
    out = [splitter.feed(data[start:end]) for start, end in pairwise(places)]
    return b"".join([*out, splitter.flush()])


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_case_11_every_line_end_becomes_a_line_feed(end: bytes) -> None:
    assert split(CANONICAL.replace(b"\n", end)) == CANONICAL


def test_line_ends_may_be_mixed_within_one_event() -> None:
    wire = b"data: 1\r\n\ndata: 2\n\rdata: 3\r\r\ndata: 4\n\r\n"
    assert split(wire) == b"data: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_case_11_bytes_may_be_cut_anywhere(end: bytes) -> None:
    wire = sse.BOM + b": hello" + end + end + CANONICAL.replace(b"\n", end)
    for cut in range(len(wire)):
        assert split(wire, cut) == CANONICAL
    assert split(wire, *range(len(wire))) == CANONICAL


def test_case_11_no_space_after_the_colon() -> None:
    assert split(b'data:{"a":1}\n\n') == b'data: {"a":1}\n\n'


def test_case_11_data_over_several_lines_is_one_payload() -> None:
    assert split(b'data: {"a":\ndata: 1}\n\n') == b'data: {"a": 1}\n\n'


@pytest.mark.parametrize(
    "foreign",
    [
        *(b": ping\n\n", b":\n\n", b"id: 1\n\n", b"retry: 1000\n\n", b"event: x\n\n", b"data:\n\n", b"data: \n\n"),
        *(b"data\n\n", b"\n\n\n", b"data:  \n\n", b"event: ping\ndata: {}\n\n", b"nonsense\n\n"),
    ],
)
def test_case_13_what_clients_choke_on_is_dropped(foreign: bytes) -> None:
    assert split(foreign) == b""
    assert split(foreign + b"data: 1\n\n" + foreign + b"data: 2\n\n" + foreign) == b"data: 1\n\ndata: 2\n\n"


def test_fields_beside_the_data_are_dropped_and_the_data_stays() -> None:
    assert split(b"id: 7\nevent: chunk\ndata: 1\nretry: 5\n: c\n\n") == b"data: 1\n\n"


def test_a_trailing_space_after_done_is_cut() -> None:
    assert split(b"data: [DONE] \n\n") == sse.DONE


def test_a_byte_order_mark_is_stripped_at_the_start_only() -> None:
    inside = b'data: "\xef\xbb\xbf"\n\n'
    assert split(sse.BOM + inside) == inside


def test_event_names_are_kept_where_they_are_asked_for() -> None:
    wire = b"event: response.created\ndata: {}\n\nevent: ping\ndata: {}\n\ndata: [DONE]\n\n"
    assert split(wire, names=True) == wire
    assert split(wire.replace(b"\n", b"\r\n"), names=True) == wire
    assert split(b"event: a\ndata: 1\ndata: 2\n\nevent: b\n\n", names=True) == b"event: a\ndata: 1 2\n\n"


def test_canonical_bytes_are_not_copied() -> None:
    assert EventSplitter().feed(b"data: 1\n\n") == b"data: 1\n\n"
    splitter = EventSplitter()
    splitter.feed(CANONICAL)
    assert splitter.feed(CANONICAL) is CANONICAL


def test_the_last_event_needs_no_blank_line() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert splitter.flush() == b"data: 2\n\n"
    assert splitter.flush() == b""


def test_case_24_a_line_of_a_megabyte_passes() -> None:
    wire = b'data: {"b64_json":"' + b"A" * 1_000_000 + b'"}\n\n'
    assert split(wire, *range(0, len(wire), 1000)) == wire


@pytest.mark.parametrize("piece", [b"x" * 65536, b"data: x\n" * 8192, b"data: x\r\n" * 8192])
def test_an_event_over_16_mib_is_refused(piece: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: ")
    for _ in range(sse.MAX_EVENT // 65536 - 1):
        assert splitter.feed(piece) == b""
    with pytest.raises(StreamInterrupted) as caught:
        splitter.feed(piece * 2)
    assert caught.value.sent is True


def test_an_event_over_16_mib_in_one_piece_is_refused() -> None:
    with pytest.raises(StreamInterrupted):
        EventSplitter().feed(b"data: " + b"x" * sse.MAX_EVENT + b"\n\n")
    many = (b"data: " + b"x" * 1_000_000 + b"\n\n") * 17
    assert EventSplitter().feed(many) == many


def test_one_byte_at_a_time_costs_linear_time() -> None:
    splitter = EventSplitter()
    started = time.process_time()
    for _ in range(300_000):
        splitter.feed(b"x")
    assert time.process_time() - started < 5


def test_events_and_payloads_of_a_block() -> None:
    assert list(sse.events(CANONICAL)) == [b"data: " + line + b"\n\n" for line in LINES]
    assert [sse.payload(event) for event in sse.events(CANONICAL)] == LINES
    assert sse.payload(b"event: x\ndata: 1\n\n") == b"1"


def test_an_error_event_is_nested_and_whole() -> None:
    assert sse.error_event(UpstreamTimeout("No byte for 60 s.", sent=True)) == (
        b'data: {"error":{"message":"No byte for 60 s.","type":"timeout","param":null,"code":"upstream_timeout"}}\n\n'
    )


ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
NOISE = st.sampled_from([b": c", b":", b"id: 1", b"retry: 10", b"event: e", b"unknown: x", b""])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(["\u2028", "\x85", "\r", "\n", '"', ":"]))


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[object]]:
    """An event stream in any spelling, and the payloads that it carries."""
    wire = draw(st.sampled_from([b"", sse.BOM]))
    payloads: list[object] = []
    for _ in range(draw(st.integers(0, 4))):
        value = {"text": draw(TEXTS), "n": draw(st.integers())}
        lines = json.dumps(value, ensure_ascii=False, indent=draw(st.sampled_from([None, 1]))).encode().split(b"\n")
        head = draw(st.sampled_from([b"data: ", b"data:"]))
        for line in draw(st.lists(NOISE, max_size=2)):
            wire += line + draw(ENDS)
        for line in lines:
            wire += head + line + draw(ENDS)
        # CR and then LF would be one line end: the blank line must end as the line before it did.
        wire += b"\r" if wire.endswith(b"\r") else draw(st.sampled_from([b"\n", b"\r\n"]))
        payloads.append(value)
    return wire, payloads


def check_cuts(stream: tuple[bytes, list[object]], data: st.DataObject) -> None:
    wire, payloads = stream
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8))
    for out in (split(wire, *cuts), split(wire, *range(len(wire)))):
        assert [json.loads(sse.payload(event)) for event in sse.events(out)] == payloads
        assert out.count(b"\n") == 2 * len(payloads)
        assert b"\r" not in out


@settings(max_examples=200, deadline=None)
@given(streams(), st.data())
def test_payloads_are_the_same_wherever_the_bytes_are_cut(
    stream: tuple[bytes, list[object]], data: st.DataObject
) -> None:
    check_cuts(stream, data)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(streams(), st.data())
def test_payloads_are_the_same_in_10_000_streams(stream: tuple[bytes, list[object]], data: st.DataObject) -> None:
    check_cuts(stream, data)


@given(st.lists(st.binary(max_size=40)))
@example([b"data: \xff\n\n", b"\r", b"\n"])
def test_no_bytes_at_all_make_it_fail(pieces: list[bytes]) -> None:
    splitter = EventSplitter()
    out = b"".join([*map(splitter.feed, pieces), splitter.flush()])
    for event in sse.events(out):
        assert event.startswith(b"data: ")
        assert sse.payload(event).strip()
    assert out == b"".join(sse.events(out))
