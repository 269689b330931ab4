"""Answers that are nested beyond all measure: each is an ordinary error of the provider's, and one row."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.gateway.house import Door
from tests.scripted import SSE_HEADERS, Chunk, ScriptedUpstream, Step, head

CHAT: dict[str, Any] = {"model": "fast", "messages": [{"role": "user", "content": "a"}]}
INPUT: dict[str, Any] = {"model": "fast", "input": "a"}
ERROR = b'{"error":{"message":%b}}'
DEPTHS = [50, 150, 300, 600, 900, 20_000]


def deep(depth: int, inmost: bytes = b'"no"', name: bytes = b"msg") -> bytes:
    return b'{"%b":' % name * depth + inmost + b"}" * depth


def listed(depth: int, inmost: bytes = b'"no"') -> bytes:
    return b"[" * depth + inmost + b"]" * depth


def whole(body: bytes, status: int = 200) -> list[Step]:
    return [head(status, {"content-type": "application/json", "content-length": str(len(body))}) + body]


def stream(*events: bytes) -> list[Step]:
    chunks = [Chunk(b"data: " + event + b"\n\n") for event in events]
    return [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), *chunks, Chunk()]


async def ask(door: Door, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    async with door.http() as http:
        answer = await http.post(path, json=body)
    return answer.status_code, answer.content


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("status", [400, 200])
@pytest.mark.parametrize("path", ["/chat/completions", "/responses", "/embeddings"])
async def test_a_deep_error_is_an_error_of_the_provider(
    door: Door, scripted: ScriptedUpstream, depth: int, status: int, path: str
) -> None:
    body = CHAT if path == "/chat/completions" else INPUT
    for text in (ERROR % deep(depth), b'{"error":%b}' % deep(depth, b"1", b"x"), ERROR % listed(depth)):
        scripted.default = whole(text, status)
        found, content = await ask(door, path, body)
        assert found == (400 if status == 400 else 502)
        assert b"internal_error" not in content
    rows = await door.rows(3)
    assert [row.outcome for row in rows] == ["upstream_error"] * 3


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("nested", [deep, listed])
async def test_a_deep_error_in_a_stream_ends_it(
    door: Door, scripted: ScriptedUpstream, depth: int, begun: bool, nested: Callable[[int], bytes]
) -> None:
    created = b'{"type":"response.created","response":{"id":"r","status":"in_progress"}}'
    failed = b'{"type":"error","error":{"message":%b}}' % nested(depth)
    scripted.default = stream(*[created][: int(begun)], failed)
    status, content = await ask(door, "/responses", {**INPUT, "stream": True})
    # What cannot be read at all passes as it is, and the end that does not come is the error.
    assert status == (200 if begun or depth == DEPTHS[-1] else 502)
    assert b'"error"' in content.rstrip().rpartition(b"\n")[2]
    assert b"internal_error" not in content
    [row] = await door.rows(1)
    assert row.outcome in ("upstream_error", "truncated")


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("nesting", [partial(deep, name=b"content"), listed], ids=["objects", "lists"])
async def test_a_deep_answer_passes_or_is_refused(
    door: Door, scripted: ScriptedUpstream, depth: int, nesting: Callable[[int], bytes]
) -> None:
    nested = nesting(depth)
    answers = {
        "/chat/completions": b'{"choices":[{"index":0,"message":{"content":%b},"finish_reason":"stop"}]}' % nested,
        "/responses": b'{"id":"r","status":"completed","output":[%b]}' % nested,
        "/embeddings": b'{"data":[{"embedding":[0.5],"x":%b}],"usage":%b}' % (nested, nested),
    }
    for number, (path, answer) in enumerate(answers.items()):
        for streams in (False, True)[: 1 + (path != "/embeddings")]:
            scripted.default = whole(answer)
            status, content = await ask(door, path, {**(INPUT if number else CHAT), "stream": streams})
            assert status in (200, 502)
            assert b"internal_error" not in content
