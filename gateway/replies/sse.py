"""Server-sent events as OpenAI's clients can read them: `data: {...}` and a blank line, nothing else.

https://html.spec.whatwg.org/multipage/server-sent-events.html says what an upstream may send; the clients accept less.
openai-python fails on `id:`, `retry:` and events without data, and loses a first event behind a byte order mark.
"""

from collections.abc import Iterator

from gateway.errors import GatewayError, StreamInterrupted

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
MAX_EVENT = 16 * 1024 * 1024  # bytes of one line, and of one event

BOM = b"\xef\xbb\xbf"
BORDER = b"\n\n"
HEAD = b"data: "
HEAD_SIZE = len(HEAD)


class EventSplitter:
    """Cuts one upstream's bytes, however they arrive, into complete events in canonical form.

    Canonical is `data: PAYLOAD\\n\\n`, with `event: NAME\\n` before it where `names` asks for it. Bytes that are
    canonical already are handed on as they are. The work is linear in the bytes, for one byte at a time too.
    """

    __slots__ = ("_after_cr", "_begun", "_names", "_tail")

    def __init__(self, *, names: bool = False) -> None:
        self._tail = bytearray()  # the event that is not complete yet
        self._names = names
        self._begun = False  # past the place where a byte order mark may stand
        self._after_cr = False  # a line feed that comes next belongs to the last line end

    def is_whole(self, data: bytes) -> bool:
        """Whether these bytes are canonical events, whole ones, and nothing stands before them: the common case."""
        return (
            data.endswith(BORDER)
            and not self._tail
            and self._begun
            and len(data) <= MAX_EVENT
            and data.find(b"\r") < 0
            and not self._names
            and self._is_canonical(data)
        )

    def feed(self, data: bytes) -> bytes:
        """All events that are complete now, b"" when none is; StreamInterrupted where one is larger than 16 MiB."""
        if self.is_whole(data):
            return data
        if self._after_cr or b"\r" in data:
            data = self._line_feeds(data)
        if not self._begun:
            data = self._without_bom(data)
        tail = self._tail
        if tail:
            seen = len(tail)
            tail += data
            cut = tail.rfind(BORDER, seen - 1) + 2
            block = bytes(tail[:cut]) if cut > 1 else b""
            del tail[: len(block)]
        else:
            cut = data.rfind(BORDER) + 2
            block = data[:cut] if cut > 1 else b""
            if len(block) < len(data):
                tail += data[len(block) :]
        if len(tail) > MAX_EVENT or (len(block) > MAX_EVENT and max(map(len, block.split(BORDER))) > MAX_EVENT):
            raise _too_large()
        return block if not block or self._is_canonical(block) else self._rewritten(block)

    def flush(self) -> bytes:
        """The last event, whose blank line never came; b"" where there is none. It may be half an event."""
        block = bytes(self._tail) + BORDER
        self._tail.clear()
        return block if self._is_canonical(block) else self._rewritten(block)

    def _line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _without_bom(self, data: bytes) -> bytes:
        data = bytes(self._tail) + data
        self._tail.clear()
        if len(data) < len(BOM) and BOM.startswith(data):
            self._tail += data
            return b""
        self._begun = True
        return data.removeprefix(BOM)

    def _is_canonical(self, block: bytes) -> bool:
        if self._names:
            return all(map(_is_canonical_named, block[:-2].split(BORDER)))
        # Two line feeds a border and two at the end: were there any other line, there would be more.
        lines = block.count(b"\n")
        return (
            block.startswith(HEAD)
            and (lines == 2 or lines == 2 * block.count(b"\n\ndata: ") + 2)
            and block.find(b" \n") < 0  # no empty data, no `[DONE] `
        )

    def _rewritten(self, block: bytes) -> bytes:
        out: list[bytes] = []
        data: list[bytes] = []
        name = b""
        for line in block.split(b"\n"):
            if line:
                field, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if field == b"data":
                    data.append(value)
                elif field == b"event":
                    name = value
                continue
            # JSON keeps its meaning when a line end outside its strings becomes a space.
            payload = b" ".join(data).rstrip()
            if payload and self._names:
                out.append((b"event: " + name + b"\n" if name else b"") + HEAD + payload + BORDER)
            elif payload and name != b"ping":  # another dialect's keep-alive: clients take it for a chunk
                out.append(HEAD + payload + BORDER)
            data, name = [], b""
        return b"".join(out)


def _is_canonical_named(event: bytes) -> bool:
    if event.startswith(b"event: "):
        event = event[event.find(b"\n") + 1 :]
    return event.startswith(HEAD) and not event.endswith(b" ") and b"\n" not in event


def _too_large() -> StreamInterrupted:
    return StreamInterrupted(f"The provider sent an event of more than {MAX_EVENT} bytes.", sent=True)


def events(block: bytes) -> Iterator[bytes]:
    """Each event of a canonical block, its blank line included."""
    start = 0
    while (end := block.find(BORDER, start)) >= 0:
        yield block[start : end + 2]
        start = end + 2


def payload(event: bytes) -> bytes:
    """What stands behind `data: ` in one canonical event, its name left out."""
    return event[event.index(HEAD) + HEAD_SIZE : -2].strip()


def error_event(exc: GatewayError) -> bytes:
    """The event that ends a broken chat stream: OpenAI's clients raise APIError on a nested `error`."""
    return HEAD + exc.json() + BORDER
