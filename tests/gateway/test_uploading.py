"""Uploads through the front door: the provider gets the client's bytes as they come, and a window of them is held."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async

from gateway import bodies
from ledger.models import PriceRow
from proxysite.protocol import GatewayProtocol
from tests.gateway import house
from tests.gateway.house import TOKEN, Door, client_key, eventually
from tests.gateway.test_uploads import END, FORM, cut, part
from tests.scripted import ScriptedUpstream, json_answer

AUDIO = os.urandom(1_000_000)
FILE_FIRST = b"".join(
    [
        part("file", AUDIO, file=True),
        part("model", b"fast"),
        part("timestamp_granularities[]", b"word"),
        part("timestamp_granularities[]", b"segment"),
        END,
    ]
)
MODEL_FIRST = part("model", b"fast") + part("file", AUDIO, file=True) + END
TEXT = {"text": "Hello", "usage": {"type": "duration", "seconds": 12}}
TRANSCRIBE = "/audio/transcriptions"


def mapped(body: bytes) -> bytes:
    return body.replace(part("model", b"fast"), part("model", b"gpt-4o"))


async def chunked(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def post(door: Door, path: str, content: Any, content_type: str = FORM, **headers: str) -> httpx.Response:
    async with door.http() as http:
        return await http.post(path, content=content, headers={"content-type": content_type, **headers})


def held(door: Door) -> tuple[int, int]:
    assert door.engine.process is not None
    return door.engine.process.memory.held, door.engine.process.disk.held


@pytest.mark.parametrize("body", [FILE_FIRST, MODEL_FIRST], ids=["file first", "model first"])
@pytest.mark.parametrize("sized", [True, False], ids=["with a length", "chunked"])
async def test_a_form_arrives_byte_for_byte_with_the_models_name_exchanged(
    door: Door, scripted: ScriptedUpstream, body: bytes, sized: bool
) -> None:
    scripted.default = json_answer(TEXT)
    answer = await post(door, TRANSCRIBE, body if sized else chunked(*cut(body)))
    assert (answer.status_code, answer.json()) == (200, TEXT)
    [request] = scripted.requests
    assert request.body == mapped(body)
    assert (request.target, request.header("content-type")) == ("/v1/audio/transcriptions", FORM)
    assert request.header("authorization") == f"Bearer {TOKEN}"
    if sized:
        assert request.header("content-length") == str(len(body) + len("gpt-4o") - len("fast"))
    [row] = await door.rows(1)
    assert (row.endpoint, row.alias, row.model, row.upstream_model, row.outcome) == (
        "audio.transcriptions", "fast", "fast", "gpt-4o", "ok",
    )  # fmt: skip
    assert (row.media_ms, row.usage_source) == (12_000, "provider")
    assert await eventually(lambda: held(door) == (0, 0))


async def test_once_the_model_is_known_the_body_goes_on_while_it_comes(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(TEXT)

    async def slowly() -> AsyncGenerator[bytes, None]:
        yield MODEL_FIRST[:1000]
        assert await eventually(lambda: len(scripted.connections) == 1)
        yield MODEL_FIRST[1000:]

    assert (await post(door, TRANSCRIBE, slowly())).status_code == 200
    assert scripted.requests[0].body == mapped(MODEL_FIRST)


@pytest.mark.parametrize("path", ["/files", "/uploads/upload_1/parts", "/containers/cntr_1/files", "/skills"])
async def test_a_form_without_a_model_goes_on_at_once(door: Door, scripted: ScriptedUpstream, path: str) -> None:
    scripted.default = json_answer({"id": "file-1", "object": "file"})
    body = part("purpose", b"batch") + part("file", AUDIO, file=True) + END

    async def slowly() -> AsyncGenerator[bytes, None]:
        yield body[:20]
        assert await eventually(lambda: len(scripted.connections) == 1)
        yield body[20:]

    assert (await post(door, path, slowly())).json()["id"] == "file-1"
    [request] = scripted.requests
    assert (request.target, request.body, request.header("transfer-encoding")) == ("/v1" + path, body, "chunked")
    [row] = await door.rows(1)
    assert (row.outcome, row.model, row.alias) == ("ok", "", "")


async def test_what_is_no_form_goes_on_as_it_is(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer({"id": "x", "object": "y"})
    await post(door, "/containers/c/files", AUDIO, "application/octet-stream")
    [request] = scripted.requests
    assert (request.body, request.header("content-type")) == (AUDIO, "application/octet-stream")


async def test_azures_clients_name_the_model_in_the_path_and_it_is_put_into_the_form(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(TEXT)
    body = part("file", AUDIO, file=True) + END
    url = door.url.removesuffix("/v1") + "/openai/deployments/fast/audio/transcriptions?api-version=2024-10-21"
    for content in (body, chunked(*cut(body))):
        assert (await post(door, url, content)).status_code == 200
    assert [request.body for request in scripted.requests] == [part("model", b"gpt-4o") + body] * 2


# --- another route ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def spared(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Alias `fast` leads to `one` and then to `two`, both at the scripted provider."""

    def configure() -> str:
        one, two = (house.provider(name, f"{scripted.url}/{name}/v1") for name in ("one", "two"))
        house.alias("fast", (one, "whisper-one"), (two, "whisper-two"))
        return client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


async def test_where_another_route_is_left_the_body_is_kept_and_sent_again(
    spared: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue(json_answer({"error": {"message": "overloaded"}}, status=503), json_answer(TEXT))
    answer = await post(spared, TRANSCRIBE, chunked(*cut(MODEL_FIRST)))
    assert (answer.status_code, answer.headers["x-gateway-provider"]) == (200, "two")
    assert [request.target for request in scripted.requests] == [
        "/one/v1/audio/transcriptions", "/two/v1/audio/transcriptions",
    ]  # fmt: skip
    assert [request.body for request in scripted.requests] == [
        MODEL_FIRST.replace(part("model", b"fast"), part("model", name)) for name in (b"whisper-one", b"whisper-two")
    ]
    assert await eventually(lambda: held(spared) == (0, 0))


# --- what ends early --------------------------------------------------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def beyond(tmp_path: Path, handler: Handler) -> AsyncIterator[Door]:
    """The gateway in front of a provider that does as `handler` does."""
    opened: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    def configure() -> str:
        house.alias("fast", (house.provider("lab", url), "gpt-4o"))
        return client_key()[1]

    try:
        async with house.open_house(configure, tmp_path) as door:
            yield door
    finally:
        server.close()
        for writer in opened:
            writer.transport.abort()


async def test_a_provider_that_refuses_before_it_has_read_is_answered_at_once(
    transactional_db: None, tmp_path: Path
) -> None:
    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error":{"message":"No such file purpose","code":"bad_purpose"}}'
        writer.write(
            b"HTTP/1.1 400 No\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await reader.read()

    answered = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        yield part("purpose", b"nothing")
        await answered.wait()
        yield END

    async with beyond(tmp_path, refusing) as door:
        sending = asyncio.ensure_future(post(door, "/files", endless()))
        [row] = await door.rows(1)
        assert (row.outcome, row.status, row.error_code, row.sent) == ("upstream_error", 400, "bad_purpose", True)
        answered.set()
        answer = await sending
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_purpose")
        assert await eventually(lambda: held(door) == (0, 0))


async def test_a_client_that_leaves_midway_takes_the_call_to_the_provider_along(
    transactional_db: None, tmp_path: Path
) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    async def reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"gpt-4o")
        came.set()
        while await reader.read(65_536):
            pass
        left.set()

    async with beyond(tmp_path, reading) as door:
        forever = asyncio.Event()

        async def stuck() -> AsyncGenerator[bytes, None]:
            yield MODEL_FIRST[:300_000]
            await forever.wait()

        sending = asyncio.ensure_future(post(door, TRANSCRIBE, stuck()))
        await asyncio.wait_for(came.wait(), 5)
        sending.cancel()
        await asyncio.wait_for(left.wait(), 1)
        await asyncio.gather(sending, return_exceptions=True)
        [row] = await door.rows(1)
        assert (row.outcome, row.status, row.sent) == ("client_cancelled", 499, True)
        assert await eventually(lambda: held(door) == (0, 0))
        assert door.engine.process is not None
        assert door.engine.process.upstream.slots.free == 2000


@pytest.fixture
def small_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bodies.MAX_UPLOAD == 512 * 1024 * 1024
    monkeypatch.setattr(bodies, "MAX_UPLOAD", 500_000)
    monkeypatch.setattr(GatewayProtocol, "linger_seconds", 0.3)


@pytest.mark.parametrize("path", [TRANSCRIBE, "/files"])
@pytest.mark.parametrize("body", [FILE_FIRST, MODEL_FIRST], ids=["file first", "model first"])
@pytest.mark.parametrize("sized", [True, False], ids=["with a length", "chunked"])
async def test_case_37_over_the_limit_is_a_413_in_json_and_no_whole_request_upstream(
    door: Door, scripted: ScriptedUpstream, small_cap: None, path: str, body: bytes, sized: bool
) -> None:
    answer = await post(door, path, body if sized else chunked(*cut(body)))
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        {
            "message": "The body is larger than 500000 bytes.",
            "type": "invalid_request_error",
            "param": None,
            "code": "request_too_large",
        },
    )
    await scripted.idle()
    assert scripted.requests == []
    assert await eventually(lambda: held(door) == (0, 0))


async def test_a_client_that_stands_still_is_a_408(
    door: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "GRACE", 0.2)
    monkeypatch.setattr(bodies, "LEAST_SPEED", 2**30)
    monkeypatch.setattr(GatewayProtocol, "linger_seconds", 0.3)
    answered = asyncio.Event()

    async def stuck() -> AsyncGenerator[bytes, None]:
        yield MODEL_FIRST[:300_000]
        await answered.wait()

    sending = asyncio.ensure_future(post(door, TRANSCRIBE, stuck()))
    [row] = await door.rows(1)
    answered.set()
    await asyncio.gather(sending, return_exceptions=True)
    assert (row.status, row.error_code, row.sent) == (408, "request_timeout", True)
    await scripted.idle()
    assert scripted.requests == []


async def test_a_second_model_behind_the_file_is_refused_and_never_reaches_the_provider_whole(
    door: Door, scripted: ScriptedUpstream
) -> None:
    body = MODEL_FIRST.removesuffix(END) + part("model", b"dear") + END
    answer = await post(door, TRANSCRIBE, chunked(*cut(body)))
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
        400, "duplicate_parameter", "model",
    )  # fmt: skip
    await scripted.idle()
    assert scripted.requests == []


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (part("model", b"nobody") + END, FORM, 404, "model_not_found"),
        (part("model", b"x" * 301) + END, FORM, 400, "invalid_value"),
        (part("model", b"\xff") + END, FORM, 400, "invalid_value"),
        (part("model", b"a\nb") + END, FORM, 400, "invalid_value"),
        (part("model", b"fast") + part("n", b"0") + END, FORM, 400, "invalid_value"),
        (part("model", b"fast")[:-4], FORM, 400, "invalid_multipart"),
        (b"model=fast", FORM, 400, "invalid_multipart"),
        (END, "multipart/form-data", 400, None),
    ],
)
async def test_a_form_that_cannot_be_used_is_refused_and_nothing_is_sent(
    door: Door, scripted: ScriptedUpstream, content: bytes, content_type: str, status: int, code: str | None
) -> None:
    answer = await post(door, TRANSCRIBE, content, content_type)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert scripted.requests == []
    assert await eventually(lambda: held(door) == (0, 0))


@pytest.mark.parametrize("path", ["/chat/completions", "/embeddings"])
async def test_a_form_where_json_is_wanted_is_a_415_that_says_so(door: Door, path: str) -> None:
    answer = await post(door, path, MODEL_FIRST)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        415, "This endpoint takes JSON: send it with `content-type: application/json`.",
    )  # fmt: skip


async def test_a_compressed_upload_is_a_415(door: Door, scripted: ScriptedUpstream) -> None:
    answer = await post(door, "/files", b"x", **{"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    assert scripted.requests == []


async def test_what_a_limit_hangs_on_is_read_wherever_it_stands(door: Door, scripted: ScriptedUpstream) -> None:
    _, token = await sync_to_async(client_key)("few", max_n=1)
    body = part("model", b"fast") + part("image", AUDIO, file=True) + part("n", b"2") + END
    answer = await post(door, "/images/edits", chunked(*cut(body)), authorization=f"Bearer {token}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")
    assert scripted.connections == []


async def test_pictures_are_charged_by_the_picture_and_sound_by_the_second(
    door: Door, scripted: ScriptedUpstream
) -> None:
    def price() -> None:
        PriceRow.objects.create(provider="lab", model="gpt-4o", image=Decimal("0.04"), second=Decimal("0.0001"))

    await sync_to_async(price)()
    await door.engine._price()  # not within the second, but now
    scripted.enqueue(json_answer({"created": 1, "data": [{"b64_json": "eA=="}] * 2}), json_answer(TEXT))
    body = part("model", b"fast") + part("image", b"png", file=True) + END
    assert (await post(door, "/images/edits", body)).status_code == 200
    assert (await post(door, TRANSCRIBE, MODEL_FIRST)).status_code == 200
    pictures, sound = await door.rows(2)
    assert (pictures.endpoint, pictures.images, pictures.cost) == ("images", 2, Decimal("0.08"))
    assert (sound.endpoint, sound.media_ms, sound.cost) == ("audio.transcriptions", 12_000, Decimal("0.0012"))


async def test_a_slow_client_is_not_taken_for_a_silent_provider(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    def configure() -> str:
        house.alias("fast", (house.provider("lab", scripted.url + "/v1", timeouts={"first_byte": 1}), "gpt-4o"))
        return client_key()[1]

    async def slowly() -> AsyncGenerator[bytes, None]:
        yield MODEL_FIRST[:300_000]
        await asyncio.sleep(2.5)
        yield MODEL_FIRST[300_000:]

    scripted.default = json_answer(TEXT)
    async with house.open_house(configure, tmp_path) as door:
        assert (await post(door, TRANSCRIBE, slowly())).status_code == 200


async def test_a_file_that_is_cut_off_on_its_way_up_costs_nothing(door: Door, scripted: ScriptedUpstream) -> None:
    forever = asyncio.Event()

    async def stuck() -> AsyncGenerator[bytes, None]:
        yield part("purpose", b"batch")
        await forever.wait()

    sending = asyncio.ensure_future(post(door, "/files", stuck()))
    assert await eventually(lambda: len(scripted.connections) == 1)
    sending.cancel()
    [row] = await door.rows(1)
    assert (row.outcome, row.usage_source, row.cost) == ("client_cancelled", "none", Decimal(0))


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 404),
        ("text/plain", 404),
        ("application/vnd.x+json; charset=utf-8", 404),
        ("application/x-www-form-urlencoded", 404),
        ("application/octet-stream", 415),
        ("text/json", 415),
        ("*/*", 415),
    ],
)
async def test_json_under_another_name_does_not_get_past_the_scope_of_a_key(
    door: Door, scripted: ScriptedUpstream, content_type: str, status: int
) -> None:
    scope = {"aliases": ["fast"], "endpoints": ["audio.speech", "images", "other"]}
    _, token = await sync_to_async(client_key)("narrow", **scope)
    content = b'{"model":"lab/dear","input":"Hello","voice":"alloy"}'
    for path in ("/audio/speech", "/images/generations", "/something/new"):
        answer = await post(door, path, content, content_type, authorization=f"Bearer {token}")
        assert (answer.status_code, path) == (status, path)
    assert scripted.requests == []
