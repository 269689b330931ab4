"""Operations beside chat at OpenAI, at Azure by deployment and at Azure's v1 API: the exact request, the exact answer.

https://platform.openai.com/docs/api-reference
https://learn.microsoft.com/azure/ai-services/openai/reference
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import house
from tests.gateway.house import TOKEN, Door
from tests.gateway.test_uploads import END, FORM, part
from tests.scripted import ScriptedUpstream, Step, head

JSON = "application/json"
SOUND = b"ID3\x03\x00\xff\xfb\x90"
FILE = part("file", b"RIFF\x00\r\n--b0undar", file=True)


@pytest.fixture
async def three(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    """Alias `m` at each of three providers, named by its prefix: `openai/m`, `dated/m`, `azure/m`."""

    def configure() -> str:
        dated = {"dialect": "azure", "options": {"api_version": "2024-10-21"}}
        for provider in (
            house.provider("openai", scripted.url + "/v1"),
            house.provider("dated", scripted.url, **dated),
            house.provider("azure", scripted.url + "/openai/v1", dialect="azure"),
        ):
            house.alias(f"{provider.name}/m", (provider, "dep-1"))
        return house.client_key()[1]

    async with house.open_house(configure, tmp_path) as opened:
        yield opened


@dataclass(frozen=True)
class Call:
    """What the client sends; `{m}` stands for its name of the model, and at the provider for the provider's."""

    path: str
    body: bytes = b""
    content_type: str | None = None
    method: str = "POST"
    has_deployment: bool = False  # at Azure by date
    status: int = 200
    answer: bytes = b"{}"
    answer_type: str = JSON


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def described(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()


MODEL = part("model", b"{m}")
CALLS = {
    "transcription": Call(
        "/audio/transcriptions",
        form(FILE, MODEL, part("timestamp_granularities[]", b"word")),
        FORM,
        has_deployment=True,
        answer=described({"text": "Hello", "usage": {"type": "duration", "seconds": 1}}),
    ),
    "transcript as text": Call(
        "/audio/transcriptions",
        form(MODEL, part("response_format", b"vtt"), FILE),
        FORM,
        has_deployment=True,
        answer="WEBVTT\n\n00:00.000 --> 00:01.000\nGrüß dich\n".encode(),
        answer_type="text/vtt; charset=utf-8",
    ),
    "translation": Call(
        "/audio/translations", form(MODEL, FILE), FORM, has_deployment=True, answer=described({"text": "Hello"})
    ),
    "speech": Call(
        "/audio/speech",
        b'{"model":"{m}","input":"Gr\xc3\xbc\xc3\x9fe","voice":"alloy","speed":1.0}',
        JSON,
        has_deployment=True,
        answer=SOUND,
        answer_type="audio/mpeg",
    ),
    "speech in events": Call(
        "/audio/speech",
        b'{"model":"{m}","input":"Hi","voice":"alloy","stream_format":"sse"}',
        JSON,
        has_deployment=True,
        answer=b'data: {"type":"speech.audio.done","usage":{"total_tokens":3}}\n\n',
        answer_type="text/event-stream; charset=utf-8",
    ),
    "image": Call(
        "/images/generations",
        b'{"model":"{m}","prompt":"a cat","n":1,"size":"1024x1024"}',
        JSON,
        has_deployment=True,
        answer=described({"created": 1, "data": [{"b64_json": "eA=="}]}),
    ),
    "image edit": Call(
        "/images/edits",
        form(part("image[]", b"\x89PNG1", file=True), part("image[]", b"\x89PNG2", file=True), MODEL),
        FORM,
        has_deployment=True,
        answer=described({"created": 1, "data": [{"b64_json": "eA=="}]}),
    ),
    "file": Call(
        "/files",
        form(part("purpose", b"batch"), FILE),
        FORM,
        status=201,
        answer=described({"id": "file-1", "object": "file", "error": None}),
    ),
    "list of files": Call(
        "/files?limit=2&after=file-0", method="GET", answer=described({"object": "list", "data": [], "has_more": False})
    ),
    "content": Call("/files/file-9/content", method="GET", answer=b'{"half', answer_type="application/octet-stream"),
    "deletion": Call("/files/file-9", method="DELETE", answer=described({"id": "file-9", "deleted": True})),
    "part of an upload": Call(
        "/uploads/upload_9/parts",
        form(part("data", b"\x00\xff", file=True)),
        FORM,
        answer=described({"id": "part_1", "object": "upload.part"}),
    ),
    "batch": Call(
        "/batches",
        b'{"input_file_id":"file-9","endpoint":"/v1/chat/completions","completion_window":"24h"}',
        JSON,
        answer=described({"id": "batch_1", "object": "batch"}),
    ),
}


def target(call: Call, provider: str) -> str:
    """Where the provider is asked."""
    if provider != "dated":
        return ("/v1" if provider == "openai" else "/openai/v1") + call.path
    path, _, query = call.path.partition("?")
    place = f"/openai/deployments/dep-1{path}" if call.has_deployment else f"/openai{path}"
    return f"{place}?api-version=2024-10-21" + (f"&{query}" if query else "")


def answering(call: Call) -> list[Step]:
    fields = {
        "content-type": call.answer_type, "content-length": str(len(call.answer)), "x-request-id": "req_theirs",
        "set-cookie": "a=1", "server": "theirs",
    }  # fmt: skip
    return [head(call.status, fields), call.answer]


# Of each answer; what varies from call to call is not among them.
OWN = {"x-gateway-provider", "x-request-id", "openai-version", "openai-processing-ms", "date"}
OF_EVENTS = {"cache-control": "no-cache, no-transform", "x-accel-buffering": "no"}


@pytest.mark.parametrize("provider", ["openai", "dated", "azure"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_the_request_and_the_answer_are_exactly_these(
    three: Door, scripted: ScriptedUpstream, call: Call, provider: str
) -> None:
    scripted.default = answering(call)
    content = call.body.replace(b"{m}", f"{provider}/m".encode())
    headers = {"content-type": call.content_type} if call.content_type else {}
    async with three.http() as http:
        url = f"{three.url.removesuffix('/v1')}/{provider}/v1{call.path}"
        answer = await http.request(call.method, url, content=content, headers=headers)
    [request] = scripted.requests
    assert (request.method, request.target) == (call.method, target(call, provider))
    assert request.body == call.body.replace(b"{m}", b"dep-1")
    signature = ("authorization", f"Bearer {TOKEN}") if provider == "openai" else ("api-key", TOKEN)
    expected = {
        "host": scripted.url.removeprefix("http://"), "user-agent": "llm-gateway", "accept-encoding": "identity",
        signature[0]: signature[1],
    }  # fmt: skip
    if call.content_type:
        expected["content-type"] = call.content_type
    if call.method != "GET":
        expected["content-length"] = str(len(request.body))
    assert dict(request.headers) == expected
    assert (answer.status_code, answer.content) == (call.status, call.answer)
    seen = {name: value for name, value in answer.headers.items() if name not in OWN}
    if call.answer_type.startswith("text/event-stream"):
        assert seen == {"content-type": call.answer_type, "transfer-encoding": "chunked", **OF_EVENTS}
    else:
        assert seen.pop("x-accel-buffering", "no") == "no"
        assert seen == {"content-type": call.answer_type, "content-length": str(len(call.answer))}
    assert answer.headers["x-gateway-provider"] == provider
    [row] = await three.rows(1)
    assert (row.outcome, row.status, row.provider, row.upstream_request_id) == (
        "ok", call.status, provider, "req_theirs",
    )  # fmt: skip
