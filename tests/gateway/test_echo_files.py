"""The built-in provider answers about files, sound and pictures too, in OpenAI's form: for the first five minutes."""

import base64
import io
import os
import struct
import wave
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.echo.files import SHELF_BYTES
from tests.gateway import house
from tests.gateway.house import Door


@pytest.fixture
async def client(transactional_db: None, tmp_path: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """The openai package, against a gateway with nothing but its own provider behind it."""

    def configure() -> str:
        house.alias("echo", (house.provider("echo", "", dialect="echo"), "echo"))
        return house.client_key()[1]

    door: Door
    async with house.open_house(configure, tmp_path) as door, door.client(max_retries=0) as client:
        yield client


SOUND = ("Grüße.wav", os.urandom(400_000))
SAID = "Grüße.wav, 400000 bytes"


OLD = pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # as the package calls it


@OLD
async def test_a_transcript_names_the_file_and_its_size(client: openai.AsyncOpenAI) -> None:
    told: Any = await client.audio.transcriptions.create(model="echo", file=SOUND)
    assert (told.text, told.usage.total_tokens) == (SAID, 3)
    found: dict[str, Any] = {}
    for kind in ("text", "srt", "vtt", "verbose_json"):
        found[kind] = await client.audio.transcriptions.create(model="echo", file=SOUND, response_format=kind)
    assert found["text"] == f"{SAID}\n"
    assert found["srt"].splitlines() == ["1", "00:00:00,000 --> 00:00:01,000", SAID]
    assert found["vtt"].startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert (found["verbose_json"].text, found["verbose_json"].duration) == (SAID, 1.0)
    translated = await client.audio.translations.create(model="echo", file=SOUND)
    assert translated.text == SAID


async def test_a_transcript_streams(client: openai.AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(model="echo", file=SOUND, stream=True)
    events: list[Any] = [event async for event in stream]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == SAID
    assert events[-1].usage.output_tokens == 3


async def test_speech_is_a_sound_as_long_as_its_text(client: openai.AsyncOpenAI) -> None:
    speech = await client.audio.speech.create(model="echo", voice="alloy", input="one two three")
    assert speech.response.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(speech.content)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24_000, 1, 2)
        assert sound.getnframes() == 7200
        assert any(sound.readframes(7200))
    bare = await client.audio.speech.create(model="echo", voice="alloy", input="one two three", response_format="pcm")
    assert (bare.response.headers["content-type"], bare.content) == ("audio/pcm", speech.content[44:])
    long = await client.audio.speech.create(model="echo", voice="alloy", input="word " * 1000)
    assert len(long.content) == 44 + 2 * 2 * 24_000


async def test_speech_in_events_has_the_sound_and_its_usage(client: openai.AsyncOpenAI) -> None:
    speech = await client.audio.speech.create(model="echo", voice="alloy", input="one two", stream_format="sse")
    assert speech.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert speech.content.count(b"\n\n") == 2
    assert b'"speech.audio.delta"' in speech.content
    assert b'"usage":{"input_tokens":2,"output_tokens":0,"total_tokens":2}' in speech.content


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a picture whose checksums are right."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, (0, 0)
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        if kind == b"IHDR":
            found = struct.unpack(">II", data[:8])
        at += 12 + length
    assert kind == b"IEND"
    return found


@OLD
async def test_pictures_are_pictures_and_as_many_as_were_asked_for(client: openai.AsyncOpenAI) -> None:
    made = await client.images.generate(model="echo", prompt="a cat", n=2)
    edited = await client.images.edit(model="echo", prompt="a dog", image=[("a.png", b"x"), ("b.png", b"y")], n=3)
    varied = await client.images.create_variation(model="echo", image=("a.png", b"x"))
    assert [len(answer.data or []) for answer in (made, edited, varied)] == [2, 3, 1]
    pictures = {picture.b64_json for answer in (made, edited, varied) for picture in answer.data or []}
    assert len(pictures) == 3
    assert {size_of(base64.b64decode(picture or "")) for picture in pictures} == {(16, 16)}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.generate(model="echo", prompt="a cat", n=99)
    assert caught.value.param == "n"


async def test_files_are_kept_listed_given_back_and_deleted(client: openai.AsyncOpenAI) -> None:
    content = os.urandom(300_000)
    file = await client.files.create(file=("notes.bin", content), purpose="assistants")
    assert (file.bytes, file.filename, file.purpose, file.status) == (300_000, "notes.bin", "assistants", "processed")
    assert [item.id async for item in client.files.list()] == [file.id]
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).content == content
    assert (await client.files.delete(file.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)


async def test_the_shelf_is_small(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        await client.files.create(file=("a.bin", bytes(SHELF_BYTES + 1)), purpose="assistants")
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    ids = [
        (await client.files.create(file=("a.bin", bytes(SHELF_BYTES // 2)), purpose="assistants")).id for _ in range(3)
    ]
    assert [item.id async for item in client.files.list()] == [ids[2], ids[1]]


async def test_what_is_missing_is_named(client: openai.AsyncOpenAI) -> None:
    for path, param in (("/audio/speech", "input"), ("/audio/transcriptions", "file")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(path, body={"model": "echo"}, cast_to=object)
        assert (caught.value.param, caught.value.code) == (param, "missing_required_parameter")
