"""Streams through real server processes: each chunk in its time, each byte as it should be, nobody waiting."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from tests.canaries import PROMPT
from tests.clients.served import Gateway
from tests.gateway import golden
from tests.scripted import SSE_HEADERS, Chunk, Pause, Received, ScriptedUpstream, Step, event, head, sse

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": PROMPT}]}
STREAM = {**ASK, "stream": True}
CHUNKED = {**SSE_HEADERS, "transfer-encoding": "chunked"}

# No usage in them, so that the client is to get these very bytes.
TEXTS = ("Grüß", " \u2028dich", ' {"a":\r\n1}', " 😀")
EVENTS = [json.dumps(part, separators=(",", ":"), ensure_ascii=False) for part in golden.chunks(*TEXTS, usage=False)]
CANONICAL = "".join(f"data: {text}\n\n" for text in [*EVENTS, "[DONE]"]).encode()


def two_lines(text: str) -> str:
    """The JSON on two lines: its line end stands outside of all strings."""
    return text.replace(',"choices"', ',\n"choices"')


def spelled(line_end: str, lead: str = "data: ", change: Callable[[str], str] = lambda text: text) -> bytes:
    """The events as another server writes them."""
    events = [change(text).split("\n") for text in [*EVENTS, "[DONE]"]]
    lines = ["".join(f"{lead}{line}{line_end}" for line in event) for event in events]
    return "".join(line + line_end for line in lines).encode()


SPELLINGS = {
    "lf": spelled("\n"),
    "crlf": spelled("\r\n"),
    "cr": spelled("\r"),
    "no space": spelled("\n", "data:"),
    "crlf without space": spelled("\r\n", "data:"),
    "several lines": spelled("\n", change=two_lines),
    "several crlf lines": spelled("\r\n", change=two_lines),
    "byte order mark": b"\xef\xbb\xbf" + spelled("\n"),
    "named, numbered, commented": b"retry: 10\n\n: hi\n\n" + spelled("\n", "id: 1\nevent: message\ndata: "),
}


async def body_of(gateway: Gateway, ask: dict[str, Any]) -> bytes:
    async with gateway.http() as http:
        answer = await http.post("/chat/completions", json=ask)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    return answer.content


async def text_of(gateway: Gateway) -> str:
    async with gateway.client() as client:
        stream = await client.chat.completions.create(**STREAM)
        return "".join([part.choices[0].delta.content or "" async for part in stream])


@pytest.mark.parametrize("bytewise", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_case_11_every_spelling_of_a_stream_leaves_as_the_same_bytes(
    served: Gateway, scripted: ScriptedUpstream, spelling: str, bytewise: bool
) -> None:
    raw = SPELLINGS[spelling]
    pieces: list[Step] = []
    for piece in (raw[at : at + 1] for at in range(len(raw))) if bytewise else (raw,):
        pieces.append(Chunk(piece))
        if piece == b"\r":
            # The kernel puts together what is written at once: between CR and LF it gets the time to deliver.
            pieces.append(Pause(0.003))
    scripted.default = [head(200, CHUNKED), *pieces, Chunk()]
    # A line end between two lines of one event becomes a space, which means the same in JSON.
    joined = two_lines(CANONICAL.decode()).replace(",\n", ", ").encode()
    expected = joined if spelling.startswith("several") else CANONICAL
    assert await body_of(served, STREAM) == expected
    assert await text_of(served) == "".join(TEXTS)


async def test_case_14_each_chunk_arrives_when_the_upstream_sends_it(
    served: Gateway, scripted: ScriptedUpstream
) -> None:
    sent: list[float] = []
    first, *rest = [event(part) for part in golden.chunks("Hel", "lo", usage=False)]

    def answer(request: Received) -> list[Step]:
        sent.append(time.monotonic())
        return [head(200, CHUNKED), Chunk(first), Pause(2.0), *map(Chunk, rest), Chunk(b"data: [DONE]\n\n"), Chunk()]

    scripted.default = answer
    async with served.client() as client:
        stream = await client.chat.completions.create(**STREAM)
        seen = [(time.monotonic(), part) async for part in stream]
    assert [part.choices[0].delta.content for _, part in seen] == ["", "Hel", "lo", None]
    assert seen[0][0] - sent[0] < 0.2
    assert 1.8 < seen[1][0] - seen[0][0] < 2.2
    assert seen[-1][0] - sent[0] < 2.4


async def test_case_14_the_raw_bytes_of_a_chunk_leave_before_the_next_is_made(
    served: Gateway, scripted: ScriptedUpstream
) -> None:
    gap = 0.1
    scripted.default = sse(*golden.chunks(*"abcdefgh", usage=False), gap=gap)
    times: list[float] = []
    async with served.http() as http, http.stream("POST", "/chat/completions", json=STREAM) as answer:
        async for data in answer.aiter_raw():
            times.append(time.monotonic())
            assert data.count(b"\n\n") == 1
    # Ten chunks and `[DONE]`, ten gaps between them.
    assert len(times) == 11
    assert all(gap / 2 < later - earlier < 4 * gap for earlier, later in pairwise(times))


async def test_case_23_a_compressed_stream_is_read_as_it_comes_and_leaves_plain(
    served: Gateway, scripted: ScriptedUpstream
) -> None:
    parts = [event(part) for part in golden.chunks("Hel", "lo", usage=False)] + [b"data: [DONE]\n\n"]
    squeezer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    packed = [squeezer.compress(part) + squeezer.flush(zlib.Z_SYNC_FLUSH) for part in parts]
    packed.append(squeezer.flush())
    assert gzip.decompress(b"".join(packed)) == b"".join(parts)
    sent: list[float] = []

    def answer(request: Received) -> list[Step]:
        sent.append(time.monotonic())
        headers = {**CHUNKED, "content-encoding": "gzip"}
        return [head(200, headers), Chunk(packed[0]), Pause(0.6), *map(Chunk, packed[1:]), Chunk()]

    scripted.default = answer
    async with served.http() as http, http.stream("POST", "/chat/completions", json=STREAM) as reply:
        seen = [(time.monotonic(), data) async for data in reply.aiter_raw()]
    assert "content-encoding" not in reply.headers
    assert b"".join(data for _, data in seen) == b"".join(parts)
    assert seen[0][0] - sent[0] < 0.3
    assert seen[1][0] - seen[0][0] > 0.4
    assert await text_of(served) == "Hello"


async def test_case_24_an_event_of_a_megabyte_passes(served: Gateway, scripted: ScriptedUpstream) -> None:
    picture = "iVBORw0KGgo" * 100_000
    parts = golden.chunks("see", picture, usage=False)
    scripted.default = sse(*parts)
    assert await body_of(served, STREAM) == b"".join(map(event, parts)) + b"data: [DONE]\n\n"
    assert await text_of(served) == "see" + picture


async def test_case_25_fifty_streams_at_once_do_not_wait_for_each_other(
    served: Gateway, scripted: ScriptedUpstream
) -> None:
    first, *rest = [event(part) for part in golden.chunks("Hel", "lo", usage=False)]
    scripted.default = [
        head(200, CHUNKED),
        Chunk(first),
        Pause(2.0),
        *map(Chunk, [*rest, b"data: [DONE]\n\n"]),
        Chunk(),
    ]

    async def watched(http: Any) -> tuple[float, float, bytes]:
        async with http.stream("POST", "/chat/completions", json=STREAM) as answer:
            times, body = [], b""
            async for data in answer.aiter_raw():
                times.append(time.monotonic())
                body += data
        return times[0], times[-1], body

    async with served.http() as http:
        seen = await asyncio.gather(*(watched(http) for _ in range(50)))
    assert {body for _, _, body in seen} == {first + b"".join(rest) + b"data: [DONE]\n\n"}
    # All are under way before any is at its end.
    assert max(begin for begin, _, _ in seen) < min(end for _, end, _ in seen)
