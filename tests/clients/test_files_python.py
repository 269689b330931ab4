"""Files through the openai package, sync and async: they arrive as they were sent, in both directions."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.forms import parts
from tests.clients.sdk import Sdk
from tests.clients.served import Gateway
from tests.clients.test_files_node import FILE, PICTURE, VERBOSE, binary, provider
from tests.gateway.house import TOKEN
from tests.scripted import HANG, SSE_HEADERS, Chunk, ScriptedUpstream, head, json_answer

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1024 * 1024
SOUND = os.urandom(3 * MIB)


async def test_case_36_a_transcription_with_several_of_one_field(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = provider
    answer = await sdk.get(
        lambda client: client.audio.transcriptions.create(
            file=("Grüße.wav", SOUND),
            model="fast",
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    )
    assert answer.text == VERBOSE["text"]
    [request] = scripted.requests
    found = parts(request)
    assert [(part.name, part.content) for part in found if part.name != "file"] == [
        ("model", b"gpt-4o"),
        ("response_format", b"verbose_json"),
        ("timestamp_granularities[]", b"word"),
        ("timestamp_granularities[]", b"segment"),
    ]
    assert found[-1].content == SOUND
    assert "Grüße.wav" in found[-1].head.decode()
    assert request.header("authorization") == f"Bearer {TOKEN}"


async def test_case_36_a_transcript_as_text_is_a_string(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = provider
    answer = await sdk.get(
        lambda client: client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="fast", response_format="text")
    )
    assert answer == "Hello there\n"


async def test_case_37_an_edit_of_two_pictures_of_six_mebibytes_passes(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = provider
    pictures = [("a.png", os.urandom(6 * MIB), "image/png"), ("b.png", os.urandom(6 * MIB), "image/png")]
    answer = await sdk.get(lambda client: client.images.edit(model="fast", image=pictures, prompt="put them together"))
    assert answer.data[0].b64_json == PICTURE["data"][0]["b64_json"]  # type: ignore[index]
    [request] = scripted.requests
    found = [part for part in parts(request) if part.name == "image[]"]
    assert [part.content for part in found] == [picture[1] for picture in pictures]
    assert all(b"Content-Type: image/png" in part.head for part in found)


async def test_case_37_over_the_limit_is_a_413_before_it_is_read(
    gateway: Gateway, scripted: ScriptedUpstream, tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(513 * MIB)
    with (
        large.open("rb") as file,
        gateway.sync_client(max_retries=0) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        await asyncio.to_thread(client.images.edit, model="fast", image=file, prompt="x")
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert caught.value.body == {
        "message": "The body is larger than 536870912 bytes.",
        "type": "invalid_request_error",
        "param": None,
        "code": "request_too_large",
    }
    assert scripted.requests == []


async def test_case_38_speech_is_the_same_to_the_last_byte(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.default = binary(SOUND, "audio/wav")
    answer = await sdk.get(lambda client: client.audio.speech.create(model="fast", voice="alloy", input="Hello"))
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(SOUND).digest()
    assert answer.response.headers["content-type"] == "audio/wav"


async def test_case_38_speech_is_heard_while_the_rest_is_still_made(
    gateway: Gateway, scripted: ScriptedUpstream
) -> None:
    scripted.default = [
        head(200, {"content-type": "audio/pcm", "transfer-encoding": "chunked"}),
        Chunk(b"x" * 500),
        HANG,
    ]
    async with gateway.client() as client:
        speaking = client.audio.speech.with_streaming_response.create(model="fast", voice="alloy", input="Hello")
        async with speaking as answer:
            assert await anext(answer.iter_bytes()) == b"x" * 500
    # Other connections may be kept; this one went with its client.
    await asyncio.wait_for(scripted.connections[scripted.requests[0].connection].left.wait(), 5)


async def test_speech_in_events_is_read_to_its_end(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    events = (
        b'data: {"type":"transcript.text.delta","delta":"Hel"}\n\n'
        b'data: {"type":"transcript.text.done","text":"Hello","usage":{"type":"tokens","input_tokens":14,'
        b'"output_tokens":3,"total_tokens":17}}\n\n'
    )
    scripted.default = [head(200, {**SSE_HEADERS, "transfer-encoding": "chunked"}), Chunk(events), Chunk()]
    found = await sdk.every(
        lambda client: client.audio.transcriptions.create(file=("a.wav", b"RIFF"), model="fast", stream=True)
    )
    assert [event.type for event in found] == ["transcript.text.delta", "transcript.text.done"]
    assert found[1].usage.total_tokens == 17
    [request] = scripted.requests
    assert ("stream", b"true") in [(part.name, part.content) for part in parts(request)]


async def test_a_file_goes_up_and_comes_down_again(sdk: Sdk, scripted: ScriptedUpstream) -> None:
    scripted.enqueue(json_answer(FILE), binary(SOUND, "application/octet-stream"))
    file = await sdk.get(lambda client: client.files.create(file=("sound.wav", SOUND), purpose="assistants"))
    assert file.id == FILE["id"]
    content: Any = await sdk.get(lambda client: client.files.content(file.id))
    assert content.content == SOUND
    assert [request.target for request in scripted.requests] == ["/v1/files", "/v1/files/file-abc/content"]
    assert [part.content for part in parts(scripted.requests[0])] == [b"assistants", SOUND]
