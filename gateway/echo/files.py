"""The built-in provider's files, sound and pictures: small, valid, and made of what it was told.

https://platform.openai.com/docs/api-reference. A transcript names the file and its size, speech is a tone as long as
its text, a picture has a colour of its prompt's own. Files are kept in the memory of one process, within a tiny cap.
"""

import base64
import hashlib
import math
import secrets
import struct
import time
import zlib
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec

from gateway.errors import BadRequest, BodyTooLarge, GatewayError, MissingField, NotFound
from gateway.parsing.multipart import MULTIPART, Scanner, boundary_of

Answer = tuple[int, dict[str, str], AsyncIterator[bytes]]

SHELF_BYTES = 1024 * 1024
MAX_PICTURES = 10
SIDE = 16  # pixels
RATE = 24_000  # samples a second
SECONDS_A_WORD, MAX_SECONDS = 0.1, 2.0
FIELDS = frozenset({"model", "response_format", "n", "stream", "purpose", "prompt"})
JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8"}
TEXT_TYPES = {"text": "text/plain; charset=utf-8", "srt": "application/x-subrip", "vtt": "text/vtt; charset=utf-8"}


class Form(msgspec.Struct):
    """What came: the fields as texts, and of the first file its name, its size and, if it is small, its content."""

    values: dict[str, str] = msgspec.field(default_factory=dict)
    file_name: str = ""
    size: int = -1
    content: bytes | None = None

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name) or default


class Shelf:
    """The files of one process; the oldest go where they are too much together."""

    def __init__(self) -> None:
        self.files: OrderedDict[str, tuple[dict[str, Any], bytes]] = OrderedDict()

    def put(self, form: Form) -> dict[str, Any]:
        if form.size < 0:
            raise MissingField("Missing required parameter: 'file'.", param="file")
        if form.content is None or form.size > SHELF_BYTES:
            raise BodyTooLarge(f"The built-in provider keeps files of at most {SHELF_BYTES} bytes.")
        file_id = "file-" + secrets.token_hex(12)
        described = {
            "id": file_id,
            "object": "file",
            "bytes": form.size,
            "created_at": int(time.time()),
            "filename": form.file_name,
            "purpose": form.text("purpose", "user_data"),
            "status": "processed",
        }
        self.files[file_id] = described, form.content
        while sum(len(content) for _, content in self.files.values()) > SHELF_BYTES:
            self.files.popitem(last=False)
        return described

    def get(self, file_id: str) -> tuple[dict[str, Any], bytes]:
        if file_id not in self.files:
            raise NotFound(f"No such File object: {file_id}", param="id", code="not_found")
        return self.files[file_id]

    def list(self) -> dict[str, Any]:
        data = [described for described, _ in reversed(self.files.values())]
        return {"object": "list", "data": data, "has_more": False}


async def answer(
    shelf: Shelf, method: str, path: str, content_type: str, pieces: AsyncIterator[bytes]
) -> Answer | None:
    """Status, headers and body of the answer to one call; None where it is not about a file, sound or a picture."""
    route = path.removeprefix("/v1")
    try:
        if route in MADE:
            status, headers, body = 200, *MADE[route](await _received(content_type, pieces))
        elif route == "/files" or route.startswith("/files/"):
            status, headers, body = 200, *await _files(shelf, method, route, content_type, pieces)
        else:
            return None
    except GatewayError as exc:
        status, headers, body = exc.status, JSON, exc.json()
    return status, {**headers, "x-request-id": f"req_{secrets.token_hex(16)}"}, _chunks(body)


Made = tuple[dict[str, str], bytes]


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 16_384):
        yield body[start : start + 16_384]


async def _received(content_type: str, pieces: AsyncIterator[bytes]) -> Form:
    if content_type.partition(";")[0].strip().lower() != MULTIPART:
        return _from_json(b"".join([piece async for piece in pieces]))
    scanner = Scanner(boundary_of(content_type), FIELDS)
    kept, size = bytearray(), 0
    async for piece in pieces:
        scanner.feed(piece)
        size += len(piece)
        if size <= 2 * SHELF_BYTES:
            kept += piece
    scanner.finish()
    form = Form({name: value.decode("utf-8", "replace") for name, value in scanner.values.items()})
    if scanner.files:
        file = scanner.files[0]
        form.file_name, form.size = file.file_name, file.end - file.start
        form.content = bytes(kept[file.start : file.end]) if file.end <= len(kept) else None
    return form


def _from_json(body: bytes) -> Form:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise BadRequest("We could not parse the JSON body of your request.") from None
    names = {**fields, "prompt": fields.get("prompt", fields.get("input", ""))}
    return Form({name: str(value) for name, value in names.items() if value is not None})


def _json(value: object) -> Made:
    return JSON, msgspec.json.encode(value)


def _events(found: Iterator[dict[str, Any]]) -> Made:
    return EVENTS, b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in found)


# --- sound ------------------------------------------------------------------------------------------------------------


def _transcript(form: Form) -> Made:
    if form.size < 0:
        raise MissingField("Missing required parameter: 'file'.", param="file")
    text = f"{form.file_name}, {form.size} bytes"
    words = text.split()
    usage = {"type": "tokens", "input_tokens": 0, "output_tokens": len(words), "total_tokens": len(words)}
    kind = form.text("response_format", "json")
    if form.text("stream").lower() == "true":
        return _events(_spoken(words, text, usage))
    if kind == "text":
        return {"content-type": TEXT_TYPES[kind]}, f"{text}\n".encode()
    if kind == "srt":
        return {"content-type": TEXT_TYPES[kind]}, f"1\n00:00:00,000 --> 00:00:01,000\n{text}\n".encode()
    if kind == "vtt":
        return {"content-type": TEXT_TYPES[kind]}, f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{text}\n".encode()
    if kind == "verbose_json":
        return _json({"task": "transcribe", "language": "english", "duration": 1.0, "text": text, "segments": []})
    if kind == "json":
        return _json({"text": text, "usage": usage})
    raise BadRequest(f"Invalid 'response_format': '{kind}'.", param="response_format", code="invalid_value")


def _spoken(words: list[str], text: str, usage: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for place, word in enumerate(words):
        yield {"type": "transcript.text.delta", "delta": word if place == 0 else f" {word}"}
    yield {"type": "transcript.text.done", "text": text, "usage": usage}


def _speech(form: Form) -> Made:
    words = form.text("prompt").split()
    if not words:
        raise MissingField("Missing required parameter: 'input'.", param="input")
    samples = _tone(min(len(words) * SECONDS_A_WORD, MAX_SECONDS))
    if form.text("response_format") == "pcm":
        sound, kind = samples, "audio/pcm"
    else:
        sound, kind = _wav(samples), "audio/wav"  # whatever else is asked for: to encode it would need a library
    if form.text("stream_format") != "sse":
        return {"content-type": kind, "content-length": str(len(sound))}, sound
    usage = {"input_tokens": len(words), "output_tokens": 0, "total_tokens": len(words)}
    return _events(
        iter(
            [
                {"type": "speech.audio.delta", "audio": base64.b64encode(sound).decode()},
                {"type": "speech.audio.done", "usage": usage},
            ]
        )
    )


def _tone(seconds: float) -> bytes:
    """A quiet A, as little-endian 16-bit samples."""
    samples = array("h", (round(3000 * math.sin(2 * math.pi * 440 * at / RATE)) for at in range(round(RATE * seconds))))
    return struct.pack(f"<{len(samples)}h", *samples)


def _wav(samples: bytes) -> bytes:
    """http://soundfile.sapp.org/doc/WaveFormat/."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, RATE * 2, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(samples), b"WAVE")
        + form
        + struct.pack("<4sI", b"data", len(samples))
        + samples
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def _pictures(form: Form) -> Made:
    count = form.text("n", "1")
    if not count.isdecimal() or not 1 <= int(count) <= MAX_PICTURES:
        raise BadRequest(f"Invalid 'n': 1 to {MAX_PICTURES}.", param="n", code="invalid_value")
    picture = base64.b64encode(_png(form.text("prompt"))).decode()
    words = len(form.text("prompt").split())
    usage = {"input_tokens": words, "output_tokens": 0, "total_tokens": words}
    if form.text("stream").lower() == "true":
        return _events(iter([{"type": "image_generation.completed", "b64_json": picture, "usage": usage}]))
    data = [{"b64_json": picture} for _ in range(int(count))]
    return _json({"created": int(time.time()), "data": data, "usage": usage})


def _png(prompt: str) -> bytes:
    """https://www.w3.org/TR/png/: a square of one colour."""
    colour = hashlib.sha256(prompt.encode("utf-8", "replace")).digest()[:3]
    rows = (b"\0" + colour * SIDE) * SIDE
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


# --- files ------------------------------------------------------------------------------------------------------------


async def _files(shelf: Shelf, method: str, route: str, content_type: str, pieces: AsyncIterator[bytes]) -> Made:
    _, _, file_id, *rest = [*route.split("/"), ""]
    if method == "POST" and not file_id:
        return _json(shelf.put(await _received(content_type, pieces)))
    if method == "GET" and not file_id:
        return _json(shelf.list())
    described, content = shelf.get(file_id)
    if method == "GET" and rest[:1] == ["content"]:
        return {"content-type": "application/octet-stream", "content-length": str(len(content))}, content
    if method == "GET":
        return _json(described)
    if method == "DELETE":
        del shelf.files[file_id]
        return _json({"id": file_id, "object": "file", "deleted": True})
    raise NotFound(f"Invalid URL ({method} /v1{route})")


MADE: dict[str, Callable[[Form], Made]] = {
    "/audio/transcriptions": _transcript,
    "/audio/translations": _transcript,
    "/audio/speech": _speech,
    "/images/generations": _pictures,
    "/images/edits": _pictures,
    "/images/variations": _pictures,
}
