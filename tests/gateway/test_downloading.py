"""Sound, files and transcripts as text: the client gets the provider's bytes as they come, and no others."""

import asyncio
import hashlib
import os
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async

from ledger.models import PriceRow
from providers.models import Provider
from tests.gateway.house import Door, eventually
from tests.gateway.test_uploads import END, FORM, part
from tests.scripted import FIN, HANG, RESET, Chunk, ScriptedUpstream, Step, head

SOUND = os.urandom(3_000_000)
SPEECH = {"model": "fast", "input": "Hello", "voice": "alloy"}
FORM_BODY = part("model", b"fast") + part("file", b"RIFF", file=True) + END
CHUNKED = {"transfer-encoding": "chunked"}


def binary(data: bytes, content_type: str = "audio/mpeg", **headers: str) -> list[Step]:
    return [head(200, {"content-type": content_type, "content-length": str(len(data)), **headers}), data]


def sized(*pieces: bytes, content_type: str = "audio/mpeg") -> list[Step]:
    return [head(200, {"content-type": content_type, **CHUNKED}), *(Chunk(piece) for piece in pieces)]


async def speak(door: Door, **more: Any) -> httpx.Response:
    async with door.http() as http:
        return await http.post("/audio/speech", json={**SPEECH, **more})


async def row_of(door: Door) -> Any:
    [row] = await door.rows(1)
    return row


@pytest.mark.parametrize("is_sized", [True, False])
async def test_case_38_sound_is_the_same_to_the_last_byte(
    door: Door, scripted: ScriptedUpstream, is_sized: bool
) -> None:
    scripted.default = binary(SOUND, "audio/wav", server="x") if is_sized else [*sized(SOUND[:9], SOUND[9:]), Chunk()]
    answer = await speak(door)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(SOUND).digest()
    assert answer.headers["content-type"] == ("audio/wav" if is_sized else "audio/mpeg")
    assert answer.headers.get("content-length") == (str(len(SOUND)) if is_sized else None)
    assert answer.headers["x-gateway-provider"] == "lab"
    assert answer.headers["x-request-id"].startswith("req_")
    assert "server" not in answer.headers
    assert scripted.requests[0].json() == {**SPEECH, "model": "gpt-4o"}
    row = await row_of(door)
    assert (row.endpoint, row.outcome, row.status, row.bytes_out) == ("audio.speech", "ok", 200, len(SOUND))
    assert (row.usage_source, row.cost, row.stream) == ("none", None, False)
    assert row.ttft_ms is not None


async def test_case_38_sound_is_streamed_and_not_gathered_first(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [*sized(SOUND[:1000]), HANG]
    async with door.http() as http, http.stream("POST", "/audio/speech", json=SPEECH) as answer:
        assert await anext(answer.aiter_raw()) == SOUND[:1000]
    await scripted.idle()  # the client left: the provider is left too
    row = await row_of(door)
    assert (row.outcome, row.bytes_out) == ("client_cancelled", 1000)


async def test_the_connection_to_the_provider_serves_again_after_a_file(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = binary(SOUND)
    await speak(door)
    await speak(door)
    assert [request.connection for request in scripted.requests] == [0, 0]


BROKEN: dict[str, Sequence[Step]] = {
    "fewer bytes than it said": [head(200, {"content-type": "audio/wav", "content-length": "5000"}), b"x" * 4000, FIN],
    "a reset": [*sized(b"x" * 4000), RESET],
    "no last chunk": [*sized(b"x" * 4000), FIN],
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
async def test_a_file_that_breaks_off_is_never_taken_for_whole(
    door: Door, scripted: ScriptedUpstream, script: Sequence[Step]
) -> None:
    scripted.default = script
    with pytest.raises(httpx.TransportError):
        await speak(door)
    row = await row_of(door)
    assert (row.outcome, row.sent) == ("upstream_error", True)
    assert await eventually(lambda: not door.server.serving.connections)


async def test_a_file_that_stops_coming_is_cut_off_after_the_gap(door: Door, scripted: ScriptedUpstream) -> None:
    await sync_to_async(Provider.objects.update)(timeouts={"gap": 1})
    await asyncio.sleep(1.5)
    scripted.default = [*sized(b"x" * 4000), HANG]
    with pytest.raises(httpx.TransportError):
        await speak(door)
    assert (await row_of(door)).outcome == "upstream_timeout"


async def test_a_refusal_of_speech_is_an_error_in_json(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = [head(400, {"content-type": "text/plain", "content-length": "2"}), b"no"]
    answer = await speak(door)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no")
    scripted.default = [head(200, {"content-type": "text/html", "content-length": "6"}), b"<html>"]
    answer = await speak(door)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")


async def test_an_answer_that_breaks_before_its_first_byte_is_an_error_in_json(
    door: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = [head(200, {"content-type": "audio/wav", "content-length": "5"}), FIN]
    answer = await speak(door)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_broken")


@pytest.mark.parametrize(
    ("content_type", "text"),
    [
        ("text/plain; charset=utf-8", "Grüß dich\n"),
        ("application/x-subrip", "1\n00:00:00,000 --> 00:00:02,000\nHello\n"),
        ("text/vtt; charset=utf-8", "WEBVTT\n\n00:00.000 --> 00:02.000\nHello\n"),
    ],
)
async def test_a_transcript_as_text_stays_text(
    door: Door, scripted: ScriptedUpstream, content_type: str, text: str
) -> None:
    scripted.default = binary(text.encode(), content_type)
    async with door.http() as http:
        answer = await http.post("/audio/transcriptions", content=FORM_BODY, headers={"content-type": FORM})
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, content_type, text)
    assert (await row_of(door)).endpoint == "audio.transcriptions"


async def test_a_file_is_a_file_though_it_is_json_or_a_page(door: Door, scripted: ScriptedUpstream) -> None:
    for content_type, data in (("application/json", b'{"half'), ("text/html", b"<html>")):
        scripted.default = binary(data, content_type, **{"content-disposition": 'attachment; filename="a"'})
        async with door.http() as http:
            answer = await http.get("/files/file-1/content")
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, content_type, data)
        assert answer.headers["content-disposition"] == 'attachment; filename="a"'
    rows = await door.rows(2)
    assert [(row.endpoint, row.cost) for row in rows] == [("files", Decimal(0))] * 2


async def test_a_call_that_is_made_is_known_by_its_place_at_the_gateway(door: Door, scripted: ScriptedUpstream) -> None:
    for location, seen in (("/v1/realtime/calls/rtc_1", "/v1/realtime/calls/rtc_1"), ("http://10.0.0.1/x", None)):
        scripted.default = [
            head(201, {"content-type": "application/sdp", "content-length": "4", "location": location}), b"v=0\n",
        ]  # fmt: skip
        async with door.http() as http:
            answer = await http.post("/realtime/calls", content=b"v=0", headers={"content-type": "application/sdp"})
        assert (answer.status_code, answer.content, answer.headers.get("location")) == (201, b"v=0\n", seen)


async def test_speech_in_events_brings_its_usage(door: Door, scripted: ScriptedUpstream) -> None:
    done = b'data: {"type":"speech.audio.done","usage":{"input_tokens":14,"output_tokens":101,"total_tokens":115}}\n\n'
    events = b'data: {"type":"speech.audio.delta","audio":"UklGRg=="}\n\n' + done
    scripted.default = [*sized(events, content_type="text/event-stream"), Chunk()]
    answer = await speak(door, stream_format="sse")
    assert (answer.headers["content-type"], answer.content) == ("text/event-stream; charset=utf-8", events)
    row = await row_of(door)
    assert (row.tokens_in, row.tokens_out, row.usage_source) == (14, 101, "provider")


async def test_what_is_not_measured_costs_its_request_or_nobody_knows(door: Door, scripted: ScriptedUpstream) -> None:
    def price(**rates: Decimal) -> None:
        PriceRow.objects.create(provider="lab", model="gpt-4o", **rates)

    scripted.default = binary(SOUND)
    await sync_to_async(price)(input=Decimal(1), output=Decimal(2))
    await door.engine._price()  # not within the second, but now
    await speak(door)
    await sync_to_async(PriceRow.objects.all().delete)()
    await sync_to_async(price)(request=Decimal("0.015"))
    await asyncio.sleep(2)
    await speak(door)
    rows = await door.rows(2)
    assert [row.cost for row in rows] == [None, Decimal("0.015")]
