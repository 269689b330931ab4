"""A request's body that is passed on as it comes: a file to be transcribed, kept or changed.

Clients write the form's fields in any order: openai-node sends the file first where its user named it first. What comes
before the model is spooled; from there on the body goes to the provider as the client sends it, and is held back only
as long as another route could still be tried. The bytes are the client's own, but for the model's name.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from msgspec.structs import replace

from gateway.bodies import Incoming
from gateway.errors import BadRequest, UnsupportedMedia
from gateway.parsing.asks import MAX_END_USER_CHARS, MAX_MODEL_CHARS, Ask
from gateway.parsing.multipart import MULTIPART, Scanner, boundary_of, text_part
from gateway.receipts import Call
from gateway.spool import WINDOW, Spool

# What is read of a form; each of them once at most.
WANTED = frozenset({"model", "stream", "n", "user", "response_format"})
# Forms that name no model go to the provider at once; of every other one it is looked for, whatever the operation.
MODELLESS = frozenset({"files", "uploads", "containers", "skills", "realtime"})
MODELLESS_PATHS = ("/audio/voices", "/audio/voice_consents", "/content_provenance_checks")


async def with_upload(ask: Ask, call: Call, incoming: Incoming, content_type: str) -> Ask:
    """The ask with its body, of which no more has come than tells the model. Raises BadRequest and UnsupportedMedia."""
    if not content_type.isascii() or not content_type.isprintable():
        raise BadRequest("The header `content-type` holds characters that are not printable ASCII.")
    is_modelless = ask.endpoint in MODELLESS or ask.path.startswith(MODELLESS_PATHS)
    if not is_modelless and not is_form(content_type):
        # Some servers read JSON under any name: it must not get past those who look for its model.
        raise UnsupportedMedia("This operation takes JSON or multipart/form-data; say so in `content-type`.")
    upload = Upload(call, incoming, content_type)
    ask = replace(ask, upload=upload, whole=None, content_type=content_type)
    if is_modelless:
        return ask
    key = call.key
    # What a limit hangs on may stand behind the file.
    limited = key is not None and (key.max_n is not None or key.end_user_limits or key.end_user_budget is not None)
    await upload.look(whole=bool(limited))
    values = {name: _text(name, value) for name, value in upload.values.items()}
    model = call.place.deployment or values.get("model")
    return replace(
        ask,
        model=model or "",
        names_model=model is not None,
        fields={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()},
        size=upload.text_bytes,
        stream=values.get("stream", "").lower() in ("true", "1"),
        choices=_count(values.get("n", "1")),
        end_user=values.get("user", "")[:MAX_END_USER_CHARS],
    )


def is_form(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == MULTIPART


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise BadRequest(f"`{name}` is not UTF-8.", param=name, code="invalid_value") from None
    if not text.isprintable():
        raise BadRequest(f"`{name}` holds characters that are not printable.", param=name, code="invalid_value")
    if name == "model" and len(text) > MAX_MODEL_CHARS:
        raise BadRequest(f"`model` has at most {MAX_MODEL_CHARS} characters.", param="model", code="invalid_value")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) < 10**6:
        raise BadRequest("Invalid `n`: a number of at least 1.", param="n", code="invalid_value")
    return int(text)


class Upload:
    """One body under way. `content_type` is the client's own; `keep`: hold all of it, so that it can be sent again."""

    def __init__(self, call: Call, incoming: Incoming, content_type: str) -> None:
        """Raises BadRequest for a form without a usable boundary."""
        self.content_type = content_type
        self.keep = False
        self.restarts = True  # nothing has been given away that is not held
        self._incoming = incoming
        self._spool = Spool(call, call.process.disk)
        self._scanner: Scanner | None = None
        self._one_reader = asyncio.Lock()
        if is_form(content_type):
            self._boundary = boundary_of(content_type)
            self._scanner = Scanner(self._boundary, WANTED)
        call.closing = self.close

    @property
    def values(self) -> dict[str, bytes]:
        """The fields that have come so far."""
        return self._scanner.values if self._scanner is not None else {}

    @property
    def text_bytes(self) -> int:
        """How much of what has come so far is text."""
        return self._scanner.text_bytes if self._scanner is not None else 0

    async def look(self, *, whole: bool) -> None:
        """Take the body in until its model is known, or the `whole` of it. Raises what reading and scanning do."""
        while not self._incoming.ended and (whole or "model" not in self.values):
            await self._spool.append(await self._next())

    def source(self, model: str | None) -> "Source":
        """The body for one provider, with that model's name where the client's stood, or before all else."""
        if self._scanner is None or model is None:
            return Source(self, None, b"")
        span = self._scanner.spans.get("model")
        if span is None:
            start = self._scanner.start
            return Source(self, (start, start), text_part(self._boundary, "model", model))
        return Source(self, None if model.encode() == self.values["model"] else span, model.encode())

    def size(self) -> int | None:
        """All bytes of the client's body, None where nobody knows yet."""
        return self._incoming.size if self._incoming.ended else self._incoming.length

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The whole body: first what is held, then what comes. One reader at a time."""
        async with self._one_reader:
            async with aclosing(self._spool.read()) as held:
                async for piece in held:
                    yield piece
            while not self._incoming.ended:
                data = await self._next()
                if self.keep or (self.restarts and self._spool.size + len(data) <= WINDOW):
                    await self._spool.append(data)
                elif self.restarts:
                    self.restarts = False
                    self._spool.close()
                yield data

    async def _next(self) -> bytes:
        data = await self._incoming.read()
        if self._scanner is not None:
            self._scanner.feed(data)
            if self._incoming.ended:
                self._scanner.finish()
        return data

    def close(self) -> None:
        """Give back memory and disk."""
        self._spool.close()


class Source(msgspec.Struct, frozen=True):
    """See gateway.pouring.Source: the upload with the bytes of `span` replaced by `value`."""

    upload: Upload
    span: tuple[int, int] | None
    value: bytes

    @property
    def length(self) -> int | None:
        size = self.upload.size()
        if size is None or self.span is None:
            return size
        return size - (self.span[1] - self.span[0]) + len(self.value)

    @property
    def restarts(self) -> bool:
        return self.upload.restarts

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        place, (start, end) = 0, self.span or (-1, -1)
        async with aclosing(self.upload.pieces()) as pieces:
            async for piece in pieces:
                after = place + len(piece)
                if after <= start or place >= max(end, start + 1):
                    yield piece
                elif place <= start:  # the piece that the span begins in, which may be empty itself
                    yield piece[: start - place] + self.value + piece[end - place :]
                else:
                    yield piece[end - place :]
                place = after
