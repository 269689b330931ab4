"""A compressed JSON body is undone under the cap of any body; other codings are a 415 that says what to do."""

import gzip
import json
import zlib

import httpx
import pytest

from tests.gateway import golden
from tests.gateway.house import Door
from tests.scripted import ScriptedUpstream, json_answer

ASK = {"model": "fast", "messages": [{"role": "user", "content": "Grüß dich"}]}
PLAIN = json.dumps(ASK).encode()
MIB = 1024 * 1024


async def post(door: Door, body: bytes, encoding: str) -> httpx.Response:
    async with door.http() as http:
        return await http.post("/chat/completions", content=body, headers={"content-encoding": encoding})


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(PLAIN)), ("GZIP", gzip.compress(PLAIN)), ("deflate", zlib.compress(PLAIN))],
    ids=["gzip", "upper case", "deflate"],
)
async def test_a_compressed_body_arrives_as_the_plain_one(
    door: Door, scripted: ScriptedUpstream, encoding: str, body: bytes
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    assert (await post(door, body, encoding)).status_code == 200
    [request] = scripted.requests
    assert request.json() == {**ASK, "model": "gpt-4o"}
    assert request.header("content-encoding") is None
    assert process_memory(door) == 0


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip"])
async def test_another_coding_is_a_415_that_names_what_is_taken(
    door: Door, scripted: ScriptedUpstream, encoding: str
) -> None:
    answer = await post(door, b"x", encoding)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert answer.json()["error"] == {
        "message": (
            f"Content-Encoding `{encoding}` is not taken here: send the body as it is, or JSON compressed with gzip."
        ),
        "type": "invalid_request_error",
        "param": None,
        "code": "unsupported_media_type",
    }
    assert scripted.requests == []


WHOLE = gzip.compress(PLAIN)
BROKEN = {
    "not gzip": PLAIN,
    "nothing": b"",
    "half of it": WHOLE[:-9],
    "something behind it": WHOLE + b"x",
    "a wrong checksum": WHOLE[:-8] + bytes(4) + WHOLE[-4:],
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_what_is_not_compressed_as_it_says_is_a_400(door: Door, scripted: ScriptedUpstream, body: bytes) -> None:
    answer = await post(door, body, "gzip")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert scripted.requests == []
    assert process_memory(door) == 0


async def test_a_bomb_is_a_413_and_is_never_blown_up(door: Door, scripted: ScriptedUpstream) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join([*(packer.compress(bytes(MIB)) for _ in range(200)), packer.flush()])
    assert len(bomb) < 300_000
    answer = await post(door, bomb, "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert process_memory(door) == 0


async def test_the_plain_size_is_on_the_memory_account(door: Door, scripted: ScriptedUpstream) -> None:
    assert door.engine.process is not None
    door.engine.process.memory.cap = 100_000
    padded = json.dumps({**ASK, "padding": "x" * 200_000}).encode()
    answer = await post(door, gzip.compress(padded), "gzip")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "buffers_full")
    assert process_memory(door) == 0


def process_memory(door: Door) -> int:
    assert door.engine.process is not None
    return door.engine.process.memory.held
