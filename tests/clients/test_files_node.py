"""Files through openai-node, in both major versions: what the provider gets is what it would get without a gateway."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.clients import node
from tests.clients.forms import Part, parts
from tests.clients.served import Gateway
from tests.clients.test_openai_node import VERSIONS
from tests.gateway.house import TOKEN
from tests.scripted import Received, ScriptedUpstream, Step, head, json_answer

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.node]

SOUND = os.urandom(6_000_000)
SPOKEN = os.urandom(300_000)
VERBOSE = {"text": "Hello", "duration": 2.5, "language": "english", "words": [{"word": "Hello", "start": 0, "end": 1}]}
PICTURE = {"created": 1, "data": [{"b64_json": "eA=="}]}
FILE = {"id": "file-abc", "object": "file", "bytes": len(SOUND), "filename": "sound.wav", "purpose": "assistants"}


def binary(data: bytes, content_type: str) -> list[Step]:
    return [head(200, {"content-type": content_type, "content-length": str(len(data))}), data]


def provider(request: Received) -> list[Step]:
    """Answers by path, as OpenAI would; a transcription by the form's own `response_format`."""
    path = request.target.removeprefix("/v1")
    if path == "/audio/transcriptions":
        wanted = {part.name: part.content for part in parts(request)}
        if wanted.get("response_format") == b"text":
            return binary(b"Hello there\n", "text/plain; charset=utf-8")
        return json_answer(VERBOSE)
    if path == "/images/edits":
        return json_answer(PICTURE)
    if path == "/audio/speech":
        return binary(SPOKEN, "audio/mpeg")
    return binary(SOUND, "application/octet-stream") if path.endswith("/content") else json_answer(FILE)


@pytest_asyncio.fixture(loop_scope="session", scope="module", params=sorted(VERSIONS))
async def said(
    request: pytest.FixtureRequest, servers: Any, lab: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the script printed through the gateway; `sent` and `direct`: the provider's requests with it and without."""
    gateway: Gateway = await servers.get("uvicorn")
    cache = request.config.cache
    assert cache is not None
    folder = node.installed(cache, request.param)
    sound: Path = tmp_path_factory.mktemp("sound") / "sound.wav"
    sound.write_bytes(SOUND)
    binary = VERSIONS[request.param]
    program = binary if binary == "node" else str(folder / binary)
    asked = []
    printed = ""
    for url, key in ((lab.url + "/v1", TOKEN), (gateway.url, gateway.key)):
        lab.requests.clear()
        lab.queue.clear()
        lab.default = provider
        values = {"GATEWAY_URL": url, "GATEWAY_KEY": key, "SOUND": str(sound)}
        printed = await node.run(folder, "files.mjs", program, **values)
        asked.append(list(lab.requests))
    found: dict[str, Any] = json.loads(printed)
    return {**found, "direct": asked[0], "sent": asked[1]}


def with_model(name: bytes, found: list[Part]) -> list[Part]:
    return [replace(part, content=name) if part.name == "model" else part for part in found]


async def test_case_36_a_transcription_from_a_stream_arrives_with_identical_parts(said: dict[str, Any]) -> None:
    direct, sent = said["direct"][0], said["sent"][0]
    assert (direct.header("transfer-encoding"), direct.header("content-length")) == ("chunked", None)
    assert [part.name for part in parts(sent)] == [
        "file", "model", "response_format", "timestamp_granularities[]", "timestamp_granularities[]",
    ]  # fmt: skip
    assert parts(sent)[0].content == SOUND
    assert parts(sent) == with_model(b"gpt-4o", parts(direct))
    assert sent.header("authorization") == f"Bearer {TOKEN}"
    assert said["transcription"] == VERBOSE


async def test_case_36_a_transcript_as_text_is_a_string(said: dict[str, Any]) -> None:
    assert said["text"] == "Hello there\n"


async def test_case_37_an_edit_of_two_pictures_passes(said: dict[str, Any]) -> None:
    direct, sent = said["direct"][2], said["sent"][2]
    assert [part.name for part in parts(sent)] == [part.name for part in parts(direct)]
    assert [part.content for part in parts(sent) if part.name == "image[]"] == [SOUND, SOUND]
    assert parts(sent) == with_model(b"gpt-4o", parts(direct))
    assert said["edited"] == PICTURE


async def test_case_38_speech_is_the_same_to_the_last_byte(said: dict[str, Any]) -> None:
    assert said["speech"] == {"type": "audio/mpeg", "sha256": hashlib.sha256(SPOKEN).hexdigest()}


async def test_a_file_goes_up_and_comes_down_again(said: dict[str, Any]) -> None:
    assert said["file"] == FILE
    assert parts(said["sent"][4]) == parts(said["direct"][4])
    assert said["content"] == {"type": "application/octet-stream", "sha256": hashlib.sha256(SOUND).hexdigest()}
    assert said["sent"][5].target == "/v1/files/file-abc/content"


async def test_a_form_with_two_models_is_refused_by_the_gateway(said: dict[str, Any]) -> None:
    assert said["twice"] == {"class": "BadRequestError", "status": 400, "code": "duplicate_parameter"}
