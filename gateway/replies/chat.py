"""The relay of one chat or completions stream: bytes pass, and only what a client would trip over is mended."""

import re
from collections.abc import Callable

from msgspec import Raw

from gateway.errors import GatewayError, StreamInterrupted, UpstreamInvalid
from gateway.replies.answers import at_path, complete_identity, is_placeholder, read_error
from gateway.replies.mending import (
    NULL,
    EndedInError,
    Fields,
    ToolCalls,
    decode_fields,
    encode,
    finish_of,
    mend_speech,
    reasoning_renamed,
    signs_of,
)
from gateway.replies.mending import decode_list as decode_choices
from gateway.replies.refusals import Complaint, refuse
from gateway.replies.sse import DONE, EventSplitter, error_event, events, payload
from ledger.counting import tokens_of_bytes
from ledger.usage import Usage, decode_usage
from providers.targets import NO_QUIRKS, Quirks

MAX_CHOICES = 1024
LONG_TOKEN = 8  # bytes; where the mean of a stream's events has more, each holds several tokens
SILENT = (NULL, b'""', b"[]", b"{}")
IDENTITY = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
EMPTY_LIST = Raw(b"[]")
EMPTY_OBJECT = Raw(b"{}")
NOTHING = Raw(NULL)
GROQ = ("x_groq", "usage")  # https://console.groq.com/docs/api-reference#chat-create
TOOLS = b'"tool_calls"'
# A later piece of a call as OpenAI sends it; whatever else stands in `tool_calls` is looked at.
PIECE = re.compile(rb'"tool_calls": ?\[\{"index": ?(\d+), ?"function": ?\{"arguments": ?"(?:[^"\\]|\\.)*"\}\}\]')


class ChatRelay:
    """One upstream stream on its way to the client, without any I/O.

    `wants_usage` is whether the client asked for usage; `choices` how many it asked for; `model` stands in for a model
    that the upstream does not name, and `quirks` are what the provider's row declares. Every call returns whole events
    in canonical form.
    """

    def __init__(
        self,
        *,
        chat: bool,
        wants_usage: bool,
        choices: int = 1,
        model: str | None = None,
        secrets: tuple[str, ...] = (),
        quirks: Quirks = NO_QUIRKS,
    ) -> None:
        self.usage: Usage | None = None
        self.done = False  # `[DONE]` has gone out
        self.failed: GatewayError | None = None  # the upstream reported an error, which has gone out as the last event
        self.secrets = secrets  # masked in the upstream's own error; may be set once the upstream is known
        self.bytes_relayed = 0
        self.events_relayed = 0
        self.created = ""
        self._splitter = EventSplitter()
        self._chat = chat
        self._wants_usage = wants_usage
        self._choices = choices
        self._model = model or ""
        self._quirks = quirks
        self._signs = signs_of(quirks)  # bytes of which one stands in every chunk that the quirks are about
        self._leaves_out_empty = "empty_choices" in quirks.fixups
        self._tools: ToolCalls | None = None  # once there is one
        # What can be mended without reading: a name that is another one here, and the head that each chunk has.
        self._renames = reasoning_renamed(quirks)
        self._heads: tuple[bytes, bytes] | None = None
        self._touches: Callable[[bytes], bytes] | None = self._renames
        self._roles: set[bytes] = set()  # the choices whose first chunk has been seen
        self._finished: set[bytes] = set()  # those whose finish_reason has been seen
        self._identity: Fields = {}  # what the chunks of this stream have in common
        self._names: list[Raw | None] = []  # of the last chunk that had all four of its own
        self._shape = self._ending = b""  # how this upstream writes the beginning of a delta, and a finish_reason
        self._always_parse = True  # until every choice has begun, and for good where chunks are nameless
        self._nameless = False  # whether this upstream leaves out what every chunk must have
        self._usage_event = b""  # held until `[DONE]`
        self._skeleton = 0  # bytes of a chunk that are not its text
        self._silent_events = self._silent_bytes = 0  # what has been relayed that is no text: role, finish, usage
        self._obfuscated = False
        self._speaks = False  # whether the event that is being read holds any text

    @property
    def finished(self) -> bool:
        """Whether every choice that began has given its finish_reason."""
        return bool(self._finished) and self._finished >= self._roles

    def feed(self, data: bytes) -> bytes:
        """What the client gets for these bytes; b"" while no event is complete, and after the stream's end."""
        if self.done or self.failed is not None:
            return b""
        block = self._splitter.feed(data)
        return self._sent(block) if block else b""

    def whole(self, data: bytes) -> bytes | None:
        """The same for bytes that are whole events, and never raises.

        None where `feed` has to be asked; nothing has happened then.
        """
        if self.done or self.failed is not None or not self._splitter.is_whole(data):
            return None
        return self._sent(data)

    def _sent(self, block: bytes) -> bytes:
        if not self._wants_usage:
            # In a JSON string the quotes would be escaped: these bytes are always structure.
            block = block.replace(b',"usage":null', b"")
        if self._touches is not None:
            block = self._touches(block)
        count = block.count(b"\n\n")
        if self._always_parse or not self._is_plain(block, count):
            block = self._looked_at(block) if count == 1 else self._relayed(block)
            count = block.count(b"\n\n")
        self.bytes_relayed += len(block)
        self.events_relayed += count
        return block

    def end(self) -> bytes:
        """What is left when the upstream has ended cleanly.

        Adds the `[DONE]` that is missing after a finish_reason; raises StreamInterrupted where the answer is not whole.
        """
        if self.done or self.failed is not None:
            return b""
        self._always_parse = True
        rest = self._relayed(self._splitter.flush())
        if isinstance(self.failed, UpstreamInvalid):
            self.failed, rest = None, b""  # half an event: the stream was cut
        elif self.failed is None and not self.done and self.finished:
            closing = self._closing()
            rest += closing
            self._silent_events += closing.count(b"\n\n")
            self._silent_bytes += len(closing)
        if self.failed is None and not self.done:
            raise StreamInterrupted("The provider's stream ended before its answer was complete.", sent=True)
        self.bytes_relayed += len(rest)
        self.events_relayed += rest.count(b"\n\n")
        return rest

    def estimate(self, tokens_in: int = 0) -> Usage:
        """Tokens of a stream that brought no usage, from counts alone: one for each event that says something, as most
        providers stream; a quarter of the text's bytes where the events are too long for that. With obfuscation, which
        pads events to hide their length, only the events count.
        """
        speaking = self.events_relayed - self._silent_events
        text = self.bytes_relayed - self._silent_bytes - speaking * self._skeleton
        single = self._obfuscated or text <= speaking * LONG_TOKEN
        return Usage(tokens_in, speaking if single else tokens_of_bytes(text))

    def _is_plain(self, block: bytes, count: int) -> bool:
        """Whether these events may pass unread. A key inside a JSON string has a backslash before its last quote.

        One delta an event: so none is `[DONE]`, and no `choices` or `delta` is null. Searched from the end, which is
        faster here by a third.
        """
        return (
            block.count(self._shape) == count
            and block.rfind(b'"error"') < 0
            and block.rfind(self._ending) < 0
            and (
                block.rfind(b'"usage"') < 0
                or (self._wants_usage and block.count(b'"usage"') == block.count(b'"usage":null'))
            )
            and (block.rfind(TOOLS) < 0 or self._are_plain_pieces(block))
            and ((self._touches is None and not self._signs) or self._is_as_declared(block, count))
        )

    def _is_as_declared(self, block: bytes, count: int) -> bool:
        if self._heads is not None and block.count(self._heads[1]) != count:
            return False
        return not any(sign in block for sign in self._signs)

    def _are_plain_pieces(self, block: bytes) -> bool:
        if self._tools is None or self._tools.moved:
            return False
        pieces = PIECE.findall(block)
        return len(pieces) == block.count(TOOLS) and all(map(self._tools.has, pieces))

    def _relayed(self, block: bytes) -> bytes:
        out: list[bytes] = []
        for event in events(block):
            if self._touches is not None:
                event = self._touches(event)
            if self._always_parse or not self._is_plain(event, 1):
                event = self._looked_at(event)
            out.append(event)
            if self.done or self.failed is not None:
                break
        return b"".join(out)

    def _looked_at(self, event: bytes) -> bytes:
        self._speaks = False
        event = self._mended(event)
        if not self._speaks:
            self._silent_events += event.count(b"\n\n")
            self._silent_bytes += len(event)
        return event

    def _mended(self, event: bytes) -> bytes:
        data = payload(event)
        if data == b"[DONE]":
            return self._closing()
        try:
            chunk = decode_fields(data)
            complaint = read_error(chunk)
            if complaint is not None:
                status = complaint.status or 502
                original = data.decode("utf-8", "replace")
                return self._fail(refuse(complaint, status, secrets=self.secrets, original=original))
            before = chunk.copy()
            self._mend(chunk)
            if not self._skeleton and self._roles:
                self._learn(chunk, spaced=data.find(b'"choices": ') >= 0)
            usage = self._take_usage(chunk)
        except EndedInError:
            complaint = Complaint("The provider ended its answer with an error.")
            return self._fail(refuse(complaint, 502, original=data.decode("utf-8", "replace")))
        except (ValueError, RecursionError):
            return self._fail(UpstreamInvalid("The provider sent an event that is not valid JSON.", sent=True))
        if usage is not None and bytes(chunk["choices"]) == b"[]":
            # A chunk for nothing but usage. The last one counts: some providers repeat a growing one.
            self._usage_event = event if chunk == before else _event(chunk)
            return b""
        if usage is None and self._leaves_out_empty and bytes(chunk["choices"]) == b"[]":
            return b""
        if usage is not None:
            if self._wants_usage:
                self._usage_event = _event({**self._identity, "choices": EMPTY_LIST, "usage": usage})
                chunk["usage"] = NOTHING
            else:
                del chunk["usage"]
        if chunk == before:
            return event
        mended = _event(chunk)
        if self._nameless and self._heads is None:
            self._learn_heads(event, mended)
        return mended

    def _learn_heads(self, event: bytes, mended: bytes) -> None:
        """Where only the names before `choices` differ, they do so in every chunk: bytes can take their place."""
        here, there = event.find(b'"choices"'), mended.find(b'"choices"')
        if here > 0 and event[here:] == mended[there:]:
            self._heads = event[:here], mended[:there]
            self._touches = self._touched
            self._settle_parsing()

    def _touched(self, block: bytes) -> bytes:
        if self._heads is not None:
            block = block.replace(*self._heads)
        return block if self._renames is None else self._renames(block)

    def _mend(self, chunk: Fields) -> None:
        if "error" in chunk:
            del chunk["error"]  # null: anything else has ended the stream
        if bytes(chunk.get("choices", NULL)) == NULL:
            chunk["choices"] = EMPTY_LIST
        if not self._wants_usage and bytes(chunk.get("usage", b"")) == NULL:
            del chunk["usage"]
        choices = decode_choices(chunk["choices"])
        changed = False
        for choice in choices:
            before = choice.copy()
            self._mend_choice(choice)
            changed = changed or choice != before
        if changed:
            chunk["choices"] = Raw(encode(choices))
        # Azure begins with a chunk of filter results that has neither choices nor a name.
        if choices or "usage" in chunk:
            self._identify(chunk)
        self._settle_parsing()

    def _settle_parsing(self) -> None:
        if self._roles and (not self._chat or len(self._roles) >= self._choices):
            self._always_parse = self._nameless and self._heads is None

    def _mend_choice(self, choice: Fields) -> None:
        index = bytes(choice.get("index", b"0"))[:16]
        if bytes(choice.get("finish_reason", NULL)) != NULL:
            choice["finish_reason"] = finish_of(choice["finish_reason"], self._quirks.finish)
            if len(self._finished) < MAX_CHOICES and bytes(choice["finish_reason"]) != NULL:
                self._finished.add(index)
        begins = index not in self._roles and len(self._roles) < MAX_CHOICES
        if begins:
            self._roles.add(index)
        if self._chat:
            self._mend_delta(choice, index, begins=begins)
        else:
            self._speaks = self._speaks or bytes(choice.get("text", NULL)) not in SILENT

    def _mend_delta(self, choice: Fields, index: bytes, *, begins: bool) -> None:
        raw = bytes(choice.get("delta", NULL))
        if raw == NULL:
            choice["delta"] = EMPTY_OBJECT
        delta = {} if raw in SILENT else decode_fields(raw)
        before = delta.copy()
        for name, value in before.items():
            if name != "role" and bytes(value) not in SILENT:
                self._speaks = True
        if self._signs:
            mend_speech(delta, self._quirks)
        calls = delta.get("tool_calls")
        if calls is not None and bytes(calls)[:1] == b"[":
            self._tools = self._tools or ToolCalls()
            given = decode_choices(calls)
            mended = self._tools.mend(index, given)
            if mended != given:
                delta["tool_calls"] = Raw(encode(mended))
        if begins and bytes(delta.get("role", NULL)) in (NULL, b'""'):
            delta.pop("role", None)
            delta = {"role": Raw(b'"assistant"'), **delta}
        if delta != before:
            choice["delta"] = Raw(encode(delta))

    def _identify(self, chunk: Fields) -> None:
        names = list(map(chunk.get, IDENTITY[:4]))
        if names == self._names:
            return
        if any(map(is_placeholder, names)) or (self._chat and bytes(chunk["object"]) == b'"text_completion"'):
            complete_identity(chunk, chat=self._chat, model=self._model, known=self._identity)
            self._nameless = True
        else:
            self._names = names
        if not self._identity:
            self._identity = {name: chunk[name] for name in IDENTITY if name in chunk}
            self.created = bytes(chunk["id"]).decode("utf-8", "replace").strip('"')

    def _learn(self, chunk: Fields, *, spaced: bool) -> None:
        """How this upstream spells its chunks, and what one weighs without text: bytes alone give an estimate then."""
        choice = decode_choices(chunk["choices"])[0]
        text = bytes(choice.get("delta" if self._chat else "text", b""))
        self._obfuscated = "obfuscation" in chunk
        self._skeleton = len(_event(chunk)) - len(text) + len(b'{"content":""}' if self._chat else b'""')
        space = b" " if spaced else b""
        self._shape = b'"delta":' + space + b"{" if self._chat else b'"choices":' + space + b"[{"
        self._ending = b'"finish_reason":' + space + b'"'

    def _take_usage(self, chunk: Fields) -> Raw | None:
        """The chunk's usage object, if it holds a count; one without any counts as null."""
        raw = chunk.get("usage")
        if raw is None or bytes(raw) == NULL:
            self._take_foreign_usage(chunk)
            return None
        usage = decode_usage(raw)
        if usage is not None:
            self.usage = usage
            return raw
        if self._wants_usage:
            chunk["usage"] = NOTHING
        else:
            del chunk["usage"]
        return None

    def _take_foreign_usage(self, chunk: Fields) -> None:
        """Usage that stands elsewhere, and stays there; a client that asked for usage gets it in its own place too."""
        path = self._quirks.usage_path or GROQ
        if path[0] not in chunk:
            return
        found = at_path(chunk, path)
        usage = decode_usage(found) if found is not None else None
        if usage is None or found is None:
            return
        self.usage = self.usage or usage
        if self._wants_usage and not self._usage_event:
            self._usage_event = _event({**self._identity, "choices": EMPTY_LIST, "usage": found})

    def _closing(self) -> bytes:
        self.done = True
        return self._usage_event + DONE if self._wants_usage else DONE

    def _fail(self, exc: GatewayError) -> bytes:
        self.failed = exc
        return error_event(exc)


def _event(chunk: Fields) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"
