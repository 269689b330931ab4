"""Files through a function: the events carry them whole, and the same bytes arrive on both sides."""

import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.deploy.functions import House, open_house
from tests.deploy.requests import EVENTS
from tests.gateway.test_uploads import END, FORM, part
from tests.scripted import RESET, Chunk, Received, ScriptedUpstream, Step, head, json_answer

SOUND = os.urandom(1_000_000)
FORM_BODY = part("file", SOUND, file=True) + part("model", b"fast") + END
SPEECH = json.dumps({"model": "fast", "input": "Hello", "voice": "alloy"}).encode()
TEXT = {"text": "Hello", "usage": {"type": "duration", "seconds": 3}}


def provider(request: Received) -> list[Step]:
    if request.target == "/v1/audio/speech":
        return [head(200, {"content-type": "audio/mpeg", "content-length": str(len(SOUND))}), SOUND]
    return json_answer(TEXT)


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as scripted:
        scripted.default = provider
        yield scripted


@pytest.fixture(params=[pytest.param("response_stream", marks=pytest.mark.slow), "buffered"])
async def house(tmp_path: Path, upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    async with open_house(tmp_path, upstream.port, GATEWAY_INVOKE_MODE=request.param) as opened:
        yield opened


def event(house: House, form: str, path: str, content_type: str, body: bytes) -> object:
    headers = {"content-type": content_type, "authorization": f"Bearer {house.site.key}"}
    return EVENTS[form](path, "POST", headers, body)


async def test_uploads_and_downloads_keep_every_byte_through_every_front_door(
    house: House, upstream: ScriptedUpstream
) -> None:
    for form in sorted(EVENTS):
        said = await house.emulator.invoke(event(house, form, "/v1/audio/transcriptions", FORM, FORM_BODY))
        assert (said.status, json.loads(said.body), form) == (200, TEXT, form)
        assert upstream.requests[-1].body == FORM_BODY.replace(part("model", b"fast"), part("model", b"gpt-4o"))
        heard = await house.emulator.invoke(event(house, form, "/v1/audio/speech", "application/json", SPEECH))
        assert (heard.status, heard.header("content-type"), form) == (200, "audio/mpeg", form)
        assert hashlib.sha256(heard.body).digest() == hashlib.sha256(SOUND).digest()


@pytest.mark.slow
async def test_a_download_that_breaks_off_is_an_error_of_the_function(house: House, upstream: ScriptedUpstream) -> None:
    upstream.default = [head(200, {"content-type": "audio/mpeg", "transfer-encoding": "chunked"}), Chunk(b"x"), RESET]
    heard = await house.emulator.invoke(event(house, "2.0", "/v1/audio/speech", "application/json", SPEECH))
    if heard.streamed:
        assert (heard.body, (heard.failure or {}).get("errorType")) == (b"x", "Unfinished")
    else:
        assert heard.status == 500
        assert json.loads(heard.body)["error"]["type"] == "server_error"
