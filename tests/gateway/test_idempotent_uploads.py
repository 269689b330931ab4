"""Idempotency-Key on uploads: told apart by what they hold, of which nothing is kept."""

from collections.abc import AsyncGenerator

import httpx
import pytest
from asgiref.sync import sync_to_async

from gateway.models import KeyedRequest
from tests.gateway.house import Door, eventually
from tests.gateway.test_idempotency import refusal
from tests.gateway.test_uploading import held
from tests.gateway.test_uploads import END, FORM, part
from tests.scripted import ScriptedUpstream, json_answer

TRANSCRIBE = "/audio/transcriptions"
KEY = {"idempotency-key": "k1"}
LARGE = b"0123456789abcdef" * 40_000


async def send(door: Door, sound: bytes, model: str = "fast") -> httpx.Response:
    """As the clients do, each time with a boundary of its own."""
    async with door.http() as http:
        files = {"file": ("a.mp3", sound)}
        return await http.post(TRANSCRIBE, data={"model": model}, files=files, headers=KEY)


@pytest.fixture
def scripted(scripted: ScriptedUpstream) -> ScriptedUpstream:
    scripted.default = json_answer({"text": "Hello"})
    return scripted


@pytest.mark.parametrize("sound", [b"one", LARGE], ids=["small", "large"])
async def test_r45_the_same_upload_has_the_same_answer_and_another_one_is_refused(
    door: Door, scripted: ScriptedUpstream, sound: bytes
) -> None:
    first, again = await send(door, sound), await send(door, sound)
    assert (first.status_code, first.content) == (200, again.content)
    assert again.headers["idempotent-replayed"] == "true"
    for other in (sound[:-1] + b"X", b"X" + sound[1:], sound + b"X"):
        assert refusal(await send(door, other)) == (400, "idempotency_mismatch")
    assert (await send(door, sound)).headers["idempotent-replayed"] == "true"
    assert len({request.header("content-type") for request in scripted.requests}) == len(scripted.requests) == 1
    assert await eventually(lambda: held(door) == (0, 0))
    [row] = await sync_to_async(lambda: list(KeyedRequest.objects.all()))()
    assert (row.body_bytes, len(row.body_fingerprint)) == (len(scripted.requests[0].body) - 2, 40)


async def test_r45_uploads_of_unknown_length_are_told_apart_too(door: Door, scripted: ScriptedUpstream) -> None:
    async def chunked(sound: bytes) -> httpx.Response:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield part("model", b"fast")
            yield part("file", sound, file=True) + END

        async with door.http() as http:
            return await http.post(TRANSCRIBE, content=pieces(), headers={"content-type": FORM, **KEY})

    await chunked(b"one")
    assert (await chunked(b"one")).headers["idempotent-replayed"] == "true"
    assert refusal(await chunked(b"two")) == (400, "idempotency_mismatch")
    assert len(scripted.requests) == 1


async def test_r45_an_upload_that_is_no_form_is_told_apart_byte_for_byte(
    door: Door, scripted: ScriptedUpstream
) -> None:
    async def raw(body: bytes) -> httpx.Response:
        async with door.http() as http:
            headers = {"content-type": "application/octet-stream", **KEY}
            return await http.post("/containers/c/files", content=body, headers=headers)

    await raw(b"one")
    assert (await raw(b"one")).headers["idempotent-replayed"] == "true"
    assert refusal(await raw(b"two")) == (400, "idempotency_mismatch")
    assert len(scripted.requests) == 1
