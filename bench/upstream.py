"""A scripted provider that is never the bottleneck: an asyncio protocol on raw sockets that sends pre-built bytes.

The model's name says what comes back: `gap-MS` is the pause before each of the 50 chunks of a stream, in milliseconds.
What stands before it names a kind of stream whose every chunk a gateway has to mend: see MENDED.
A request without `"stream":true` gets one JSON completion. Where usage was asked for, each chunk holds `"usage":null`
and a last one the numbers, as with OpenAI: https://platform.openai.com/docs/api-reference/chat/streaming
"""

import asyncio
import json
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import cast

import uvloop

CHUNKS = 50
WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "and",
    "runs",
    "on",
    "into",
    "deep",
    "wood",
)
USAGE = {"prompt_tokens": 20, "completion_tokens": CHUNKS, "total_tokens": 20 + CHUNKS}


def packed(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def piece(delta: Mapping[str, object], *, finish: str | None = None, usage: Mapping[str, int] | bool) -> bytes:
    """One SSE event, framed as one piece of a chunked body; `usage` True is null."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1760000000, "model": "bench"}
    return framed(chunk | {"choices": [choice]} | ({"usage": None if usage is True else usage} if usage else {}))


def framed(chunk: object) -> bytes:
    event = b"data: " + (chunk if isinstance(chunk, bytes) else packed(chunk)) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def stream_pieces(
    deltas: Sequence[Mapping[str, object]],
    *,
    finish: str = "stop",
    usage: bool,
    quiet: Mapping[str, int] | bool = True,
) -> list[bytes]:
    """The 50 chunks; the last one carries the finish, the usage where it was asked for, `[DONE]` and the body's end."""
    pieces = [piece(delta, usage=usage and quiet) for delta in deltas]
    last = piece({}, finish=finish, usage=usage and quiet)
    if usage:
        numbers = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1760000000, "model": "bench"}
        last += framed(numbers | {"choices": [], "usage": USAGE})
    return [*pieces, last + framed(b"[DONE]") + b"0\r\n\r\n"]


def call_pieces() -> list[dict[str, object]]:
    """A tool call whose pieces have no index, as Gemini sends them."""
    head = {"id": "call_bench", "type": "function", "function": {"name": "say", "arguments": ""}}
    words = [{"function": {"arguments": " " + WORDS[number % len(WORDS)]}} for number in range(CHUNKS - 2)]
    return [{"tool_calls": [call]} for call in (head, *words)]


def completion() -> bytes:
    message = {"role": "assistant", "content": " ".join(WORDS * 5)}
    body = packed(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1760000000,
            "model": "bench",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


JSON_ANSWER = completion()
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SAID = [{"content": " " + WORDS[number % len(WORDS)]} for number in range(CHUNKS - 1)]
PLAIN_STREAM = stream_pieces(SAID, usage=False)
METERED_STREAM = stream_pieces(SAID, usage=True)
MENDED = {
    b"index": stream_pieces(call_pieces(), finish="tool_calls", usage=True),  # no call has its index
    b"usage": stream_pieces(SAID, usage=True, quiet=USAGE),  # every chunk has the numbers
}


class Provider(asyncio.Protocol):
    """One connection: requests one after the other, each read whole before it is answered."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own class is not derived from it

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].lower()
        start = head.find(b"content-length:") + 15
        body_end = end + 4 + int(head[start : head.find(b"\r\n", start) if b"\r\n" in head[start:] else None])
        if len(self.buffer) < body_end:
            return
        body, self.buffer = self.buffer[end + 4 : body_end].replace(b" ", b""), self.buffer[body_end:]
        if b'"stream":true' not in body:
            self.transport.write(JSON_ANSWER)
            return
        before, _, after = body.partition(b"gap-")
        gap = int(after[: after.find(b'"')]) / 1000
        self.transport.write(STREAM_HEAD)
        plain = METERED_STREAM if b'"include_usage":true' in body else PLAIN_STREAM
        self.plan(MENDED.get(before[-6:-1], plain), 0, gap)

    def plan(self, pieces: list[bytes], number: int, gap: float) -> None:
        """Each piece is written in a turn of the loop of its own, so that each is a packet of its own."""
        if gap:
            self.loop.call_later(gap, self.send, pieces, number, gap)
        else:
            self.loop.call_soon(self.send, pieces, number, gap)

    def send(self, pieces: list[bytes], number: int, gap: float) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(pieces[number])
        if number + 1 < len(pieces):
            self.plan(pieces, number + 1, gap)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", port, backlog=2048)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(int(sys.argv[1])))
