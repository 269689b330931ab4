"""What is mended inside a choice, whole or streamed: how it ended, its reasoning, content in parts, its tool calls."""

import re
import secrets as randomness
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
import structlog
from msgspec import Raw

from providers.quirks import FINISH_REASONS
from providers.targets import Quirks

log = structlog.get_logger("gateway")

Fields = dict[str, Raw]

NULL = b"null"
EMPTY = (b"", NULL, b'""')
MAX_CALLS = 4096  # of one stream; what comes beyond is passed on as it is
KNOWN = frozenset(b'"%b"' % reason.encode() for reason in FINISH_REASONS)
# Words of others for OpenAI's five; whatever is in neither list has ended, and that is "stop".
FOREIGN = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",
}

# Of a delta that holds nothing else but its role and an empty content.
_DELTA = rb'("delta": ?\{(?:"role": ?"assistant", ?)?(?:"content": ?(?:""|null), ?)?)'
_TEXT = rb'(?=: ?"(?:[^"\\]|\\.)*"\})'
RENAMES = {
    "reasoning_content": (re.compile(_DELTA + b'"reasoning"' + _TEXT), rb'\1"reasoning_content"'),
    "reasoning": (re.compile(_DELTA + b'"reasoning_content"' + _TEXT), rb'\1"reasoning"'),
}

decode_fields = msgspec.json.Decoder(Fields).decode
decode_list = msgspec.json.Decoder(list[Fields]).decode
encode = msgspec.json.encode


class EndedInError(Exception):
    """The provider gives an error as the reason for the end, and says no more."""


def finish_of(raw: Raw, own: Mapping[str, str]) -> Raw:
    """A finish reason in OpenAI's words; `own` are the provider's. Raises EndedInError."""
    text = bytes(raw)
    if text in KNOWN and not own:
        return raw
    if text in EMPTY:
        return raw if text == NULL else Raw(NULL)
    said = msgspec.json.decode(text)
    word = said if isinstance(said, str) else ""
    if word in own:
        return Raw(encode(own[word]))
    if text in KNOWN:
        return raw
    if word.lower() == "error":
        raise EndedInError
    meant = FOREIGN.get(word.lower(), "stop")
    if word.lower() not in FOREIGN:
        log.info("finish_reason_unknown", said=word[:100], told=meant)
    return Raw(encode(meant))


def signs_of(quirks: Quirks) -> tuple[bytes, ...]:
    """What stands in the bytes of every chunk that the quirks are about; none where they change no chunk."""
    if not (quirks.reasoning or quirks.fixups or quirks.usage_path):
        return ()
    signs: list[bytes] = []
    if quirks.reasoning:
        signs.append(b'"reasoning"' if quirks.reasoning == "reasoning_content" else b'"reasoning_content"')
    if "content_parts" in quirks.fixups:
        signs += [b'"content":[', b'"content": [']
    if quirks.usage_path:
        signs.append(b'"%b"' % quirks.usage_path[0].encode())
    return tuple(signs)


def reasoning_renamed(quirks: Quirks) -> Callable[[bytes], bytes] | None:
    """Gives reasoning its other name where it stands at the end of a simple delta; None where no row asks for that."""
    if not quirks.reasoning:
        return None
    pattern, replacement = RENAMES[quirks.reasoning]
    return partial(pattern.sub, replacement)


def mend_speech(speech: Fields, quirks: Quirks) -> None:
    """A message or delta with its content as text and its reasoning under the name that the provider's row asks for."""
    if "content_parts" in quirks.fixups and bytes(speech.get("content", b""))[:1] == b"[":
        _join_parts(speech)
    if quirks.reasoning:
        other = "reasoning" if quirks.reasoning == "reasoning_content" else "reasoning_content"
        if other in speech and quirks.reasoning not in speech:
            speech[quirks.reasoning] = speech.pop(other)


def _join_parts(speech: Fields) -> None:
    """https://docs.mistral.ai/capabilities/reasoning/: `thinking` parts hold text parts of their own."""
    text, thinking, other = "", "", False
    for part in msgspec.json.decode(speech["content"]):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            text += part["text"]
        elif kind == "thinking":
            thinking += _thought(part.get("thinking"))
        else:
            other = True
    if other:
        return  # a part that is no text has no place in a text
    speech["content"] = Raw(encode(text))
    if thinking:
        speech["reasoning_content"] = Raw(encode(thinking))


def _thought(value: object) -> str:
    if isinstance(value, list):
        return "".join(_thought(part.get("text")) for part in value if isinstance(part, dict))
    return value if isinstance(value, str) else ""


def whole_call(call: Fields) -> Fields:
    """A tool call of a whole message with the four things that it must have; arguments are a text in OpenAI's form."""
    if bytes(call.get("id", b"")) in EMPTY:
        call = {**call, "id": Raw(encode(_call_id()))}
    if bytes(call.get("type", b"")) in EMPTY:
        call = {**call, "type": Raw(b'"function"')}
    function = call.get("function")
    if function is not None and bytes(function) != NULL:
        parts = decode_fields(function)
        if mend_arguments(parts):
            call["function"] = Raw(encode(parts))
    return call


def mend_arguments(parts: Fields) -> bool:
    """Whether the function's arguments were no text and are one now."""
    arguments = bytes(parts.get("arguments", b'""'))
    if arguments[:1] == b'"':
        return False
    parts["arguments"] = Raw(encode("" if arguments == NULL else arguments.decode()))
    return True


def _call_id() -> str:
    return f"call_{randomness.token_hex(12)}"


class ToolCalls:
    """The tool calls of one stream: each has an index, and its id, type and name once, in its first delta.

    Gemini leaves the index out, others repeat the id with every piece or give two calls the same index; the clients'
    libraries then join what does not belong together, or raise.
    """

    def __init__(self) -> None:
        self.moved = False  # an index goes out that is not the one that came in: every later piece must be looked at
        self._places: dict[tuple[bytes, bytes], int] = {}  # by choice, and the index that came in
        self._ids: dict[tuple[bytes, bytes], int] = {}  # by choice and id
        self._named: set[tuple[bytes, int]] = set()  # those whose name has gone out
        self._taken: dict[bytes, set[int]] = {}  # by choice
        self._last: dict[bytes, int] = {}

    def has(self, index: bytes) -> bool:
        """Whether a call of that index has begun in any choice."""
        return any(index == known for _, known in self._places)

    def mend(self, choice: bytes, calls: list[Fields]) -> list[Fields]:
        """The pieces of one delta as they go out."""
        return [self._mend(choice, call) for call in calls]

    def _mend(self, choice: bytes, call: Fields) -> Fields:
        if len(self._places) + len(self._ids) >= MAX_CALLS:
            return call
        form = "custom" if "custom" in call else "function"
        parts = decode_fields(call[form]) if bytes(call.get(form, NULL)) != NULL else {}
        before = None if form not in call else parts.copy()
        call_id, index = bytes(call.get("id", NULL)), bytes(call.get("index", NULL))
        has_name = bytes(parts.get("name", b"")) not in EMPTY
        place, begins = self._place(choice, index, call_id, named=has_name)
        if "arguments" in parts:
            mend_arguments(parts)
        if not has_name or (choice, place) in self._named:
            parts.pop("name", None)
        else:
            self._named.add((choice, place))
        mended: Fields = {"index": Raw(b"%d" % place)}
        if begins:
            mended["id"] = Raw(encode(_call_id())) if call_id in EMPTY else call["id"]
            mended["type"] = Raw(encode(form)) if bytes(call.get("type", b"")) in EMPTY else call["type"]
            if form == "function" and parts:
                parts.setdefault("arguments", Raw(b'""'))
        if parts or form in call:
            mended[form] = Raw(encode(parts)) if parts != before else call[form]
        for name, raw in call.items():
            if name not in ("index", "id", "type", form):
                mended[name] = raw
        return call if mended == call else mended

    def _place(self, choice: bytes, index: bytes, call_id: bytes, *, named: bool) -> tuple[int, bool]:
        """The index that goes out, and whether a call begins with this piece."""
        given = index != NULL
        if call_id not in EMPTY:
            known = self._ids.get((choice, call_id))
        elif given:
            known = self._places.get((choice, index))
        else:
            known = None if named else self._last.get(choice)
        place = self._free(choice, index) if known is None else known
        self._last[choice] = place
        if call_id not in EMPTY:
            self._ids[choice, call_id] = place
        if given:
            self._places[choice, index] = place
        self.moved |= index != b"%d" % place
        return place, known is None

    def _free(self, choice: bytes, index: bytes) -> int:
        """The index that came, where no call has it yet; else the one behind the last."""
        taken = self._taken.setdefault(choice, set())
        wanted = int(index) if index.isdigit() and len(index) < 6 else len(taken)
        place = wanted if wanted not in taken else max(taken) + 1
        taken.add(place)
        return place
