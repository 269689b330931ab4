"""Streams of which every chunk is mended: they go from socket to socket as those do that need nothing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.delivery import Live
from gateway.replies.chat import ChatRelay
from gateway.replies.sse import DONE
from proxysite.protocol import GatewayProtocol
from tests.gateway import golden
from tests.gateway.house import Door
from tests.gateway.leaving import STREAM
from tests.scripted import HANG, Chunk, Pause, ScriptedUpstream, Step, event, head, sse

CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
BEGUN = golden.chunk({"role": "assistant", "content": None})
NAMED = golden.chunk(
    {"tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]},
)
PIECES = [golden.chunk({"tool_calls": [{"function": {"arguments": text}}]}) for text in ('{"a"', ":", "1", "}")]
CALLED = golden.chunk({}, "tool_calls")
STREAMED = [BEGUN, NAMED, *PIECES, CALLED]


@pytest.fixture
def read_by_tasks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What a request's task was woken for."""
    found: list[bytes] = []
    real = Live._made

    def made(live: Live, relay: Any, data: bytes) -> bytes:
        found.append(data)
        return real(live, relay, data)

    monkeypatch.setattr(Live, "_made", made)
    return found


async def sent(door: Door) -> bytes:
    async with door.http() as http:
        answer = await http.post("/chat/completions", json=STREAM)
    return answer.content


def expected(frames: list[dict[str, Any]]) -> bytes:
    relay = ChatRelay(chat=True, wants_usage=False)
    return b"".join(relay.feed(event(frame)) for frame in frames) + relay.feed(DONE)


async def test_chunks_that_are_mended_wake_no_task(
    door: Door, scripted: ScriptedUpstream, read_by_tasks: list[bytes]
) -> None:
    scripted.default = sse(*STREAMED, gap=0.02)
    answer = await sent(door)
    assert answer == expected(STREAMED)
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in answer.split(b"\n\n")[:-2]]
    assert [call["index"] for delta in deltas for call in delta.get("tool_calls", ())] == [0] * 5
    # The first may come with the head, and the last ends the task.
    assert len(read_by_tasks) <= 2
    assert read_by_tasks[-1] == DONE
    [row] = await door.rows(1)
    assert (row.outcome, row.bytes_out) == ("ok", len(answer))


async def test_what_the_clients_socket_does_not_take_is_written_once_and_in_its_turn(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[bytes] = []
    real: Callable[[GatewayProtocol, bytes], bool] = GatewayProtocol.write

    def write(protocol: GatewayProtocol, part: bytes) -> bool:
        if len(refused) % 2 == 0:
            refused.append(part)
            return False
        refused.append(b"")
        return real(protocol, part)

    monkeypatch.setattr(GatewayProtocol, "write", write)
    steps: list[Step] = [head(200, CHUNKED)]
    for frame in STREAMED:
        steps += [Pause(0.02), Chunk(event(frame))]
    scripted.default = [*steps, Chunk(DONE), Chunk()]
    answer = await sent(door)
    assert answer == expected(STREAMED)
    assert len([part for part in refused if part]) >= 2
    [row] = await door.rows(1)
    assert (row.outcome, row.bytes_out) == ("ok", len(answer))


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (b'data: {"error":{"message":"boom","code":"overloaded"}}\n\n', "overloaded"),
        (b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{]}\n\n', "upstream_invalid_response"),
    ],
    ids=["an error", "no JSON"],
)
async def test_an_event_that_ends_a_stream_in_an_error_ends_it_at_once(
    door: Door, scripted: ScriptedUpstream, last: bytes, code: str
) -> None:
    scripted.default = [head(200, CHUNKED), *(Chunk(event(frame)) for frame in STREAMED[:3]), Pause(0.1)]
    scripted.default += [Chunk(last), HANG]
    async with asyncio.timeout(2):
        answer = await sent(door)
    *_, error, rest = answer.split(b"\n\n")
    assert (json.loads(error.removeprefix(b"data: "))["error"]["code"], rest) == (code, b"")
    assert answer.count(b'"error"') == 1
    [row] = await door.rows(1)
    assert (row.outcome, row.error_code, row.bytes_out) == ("upstream_error", code, len(answer))
