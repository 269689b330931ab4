"""Plain JSON answers: what may pass as one, the usage in it, and the same answer as a stream."""

import secrets as randomness
import sys
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Raw

from gateway.errors import UpstreamInvalid
from gateway.replies.mending import (
    NULL,
    EndedInError,
    Fields,
    decode_fields,
    encode,
    finish_of,
    mend_speech,
    whole_call,
)
from gateway.replies.mending import decode_list as decode_choices
from gateway.replies.refusals import Complaint, read_complaint, refusal, refuse
from gateway.replies.sse import DONE
from ledger.usage import Usage, decode_usage
from providers.targets import NO_QUIRKS, Quirks

# The list without which an answer of that endpoint is none; whatever else is in it is the provider's affair.
LIST_OF = {"chat.completions": "choices", "completions": "choices", "embeddings": "data"}

_decode_numbers = msgspec.json.Decoder(list[float]).decode
Convert = Callable[[Fields], Fields]


class Answer(msgspec.Struct, frozen=True):
    """A body that may go to the client as it is: a JSON object, without the padding that stood before it."""

    body: bytes
    usage: Usage | None


def check_answer(
    status: int,
    content_type: str,
    body: bytes,
    endpoint: str,
    *,
    secrets: Iterable[str] = (),
    quirks: Quirks = NO_QUIRKS,
    convert: Convert | None = None,
    model: str = "",
) -> Answer:
    """The provider's answer to a call that is no stream; its body is not changed where nothing in it has to be.

    `convert` puts it into OpenAI's shape first. Raises UpstreamRefused for an error, even one with status 200, and
    UpstreamInvalid for HTML, nothing, half a document and JSON that is no answer of this endpoint.
    """
    if not 200 <= status <= 299:
        raise refusal(status, {}, body, secrets, quirks)
    body = body.lstrip()  # some providers keep a waiting connection alive with line ends
    if body[:1] != b"{":
        raise _invalid(_what(body, content_type))
    try:
        fields = decode_fields(body)
        complaint = read_error(fields)
        if complaint is None:
            shaped = _in_shape(fields if convert is None else convert(fields), endpoint, quirks, model)
            fields, body = shaped, body if shaped is fields else encode(shaped)
    except EndedInError:
        complaint = Complaint("The provider ended its answer with an error.")
    except (ValueError, RecursionError):
        raise _invalid("a body that is not whole, valid JSON") from None
    if complaint is not None:
        raise refuse(complaint, complaint.status or 502, secrets=secrets, original=body.decode("utf-8", "replace"))
    usage = fields.get("usage")
    if usage is None or bytes(usage) == NULL:
        usage = at_path(fields, quirks.usage_path)
    return Answer(body, None if usage is None else decode_usage(usage))


def _in_shape(fields: Fields, endpoint: str, quirks: Quirks, model: str) -> Fields:
    """The same object where nothing in it is to be mended."""
    listed = LIST_OF.get(endpoint)
    if listed is not None and bytes(fields.get(listed, b""))[:1] != b"[":
        raise _invalid(f"a JSON object without `{listed}`")
    if listed != "choices":
        return fields
    return _mended(fields, chat=endpoint == "chat.completions", quirks=quirks, model=model)


def _mended(fields: Fields, *, chat: bool, quirks: Quirks, model: str) -> Fields:
    choices = decode_choices(fields["choices"])
    before = [dict(choice) for choice in choices]
    for choice in choices:
        if "finish_reason" in choice:
            choice["finish_reason"] = finish_of(choice["finish_reason"], quirks.finish)
        message = choice.get("message")
        if chat and message is not None and bytes(message) != NULL:
            speech = decode_fields(message)
            said = dict(speech)
            _mend_message(speech, quirks)
            if speech != said:
                choice["message"] = Raw(encode(speech))
    mended = {**fields, "choices": Raw(encode(choices))} if choices != before else fields
    if any(is_placeholder(fields[name]) for name in ("id", "created", "model") if name in fields):
        mended = complete_identity(dict(mended), chat=chat, model=model, whole=True)
    return mended


def _mend_message(speech: Fields, quirks: Quirks) -> None:
    mend_speech(speech, quirks)
    if bytes(speech.get("role", b"")) in (b"", NULL, b'""'):
        speech["role"] = Raw(b'"assistant"')
    calls = speech.get("tool_calls")
    if calls is not None and bytes(calls)[:1] == b"[":
        given = decode_choices(calls)
        mended = [whole_call(dict(call)) for call in given]
        if mended != given:
            speech["tool_calls"] = Raw(encode(mended))


def at_path(fields: Mapping[str, Raw], path: tuple[str, ...]) -> Raw | None:
    """What stands there in an answer; None where nothing does, and for the empty way."""
    found: Raw | None = None
    for step in path:
        if found is not None:
            if bytes(found)[:1] != b"{":
                return None
            fields = decode_fields(found)
        found = fields.get(step)
        if found is None:
            return None
    return found


def read_error(fields: Mapping[str, Raw]) -> Complaint | None:
    """The complaint in an answer or a chunk that is one: it has `error`, or says it of itself and has no choices."""
    error = fields.get("error")
    if error is not None and bytes(error) != NULL:
        said = {name: msgspec.json.decode(fields[name]) for name in ("error", "error_type") if name in fields}
        return read_complaint(said) or Complaint("The provider gave no reason.")
    if bytes(fields.get("object", b"")) == b'"error"' or bytes(fields.get("type", b"")) == b'"error"':
        return read_complaint({name: msgspec.json.decode(raw) for name, raw in fields.items()})
    return None


def as_stream(body: bytes, *, chat: bool, wants_usage: bool) -> bytes:
    """A whole completion as the event stream that would have carried it, `[DONE]` included.

    `body` has passed check_answer. Raises UpstreamInvalid where its choices are no choices.
    """
    try:
        fields = decode_fields(body)
        choices = decode_choices(fields.pop("choices"))
        usage = fields.pop("usage", None)
        fields["object"] = Raw(b'"chat.completion.chunk"' if chat else b'"text_completion"')
        fields = complete_identity(fields, chat=chat, model="")
        chunks: list[Fields] = []
        for place, choice in enumerate(choices):
            choice.setdefault("index", Raw(encode(place)))
            chunks += _chat_chunks(choice) if chat else _text_chunks(choice)
    except (ValueError, RecursionError):
        raise _invalid("choices that cannot be streamed") from None
    quiet = {"usage": Raw(NULL)} if wants_usage else {}
    out = [_event({**fields, "choices": Raw(encode([chunk])), **quiet}) for chunk in chunks]
    if wants_usage and usage is not None and bytes(usage) != NULL:
        out.append(_event({**fields, "choices": Raw(b"[]"), "usage": usage}))
    return b"".join([*out, DONE])


def with_base64(body: bytes) -> bytes:
    """An embeddings answer with each list of numbers as base64 of its little-endian 32-bit floats, for who asked so.

    Many providers ignore `encoding_format`; openai-node before 7 then takes their numbers for base64 and gives its user
    an empty vector. What is base64 already comes back as it is. `body` has passed check_answer; raises UpstreamInvalid
    where its data are no embeddings.
    """
    return _with_vectors(body, b"[", _packed)


def with_floats(body: bytes) -> bytes:
    """An embeddings answer with each base64 text as the numbers that it holds, for who did not ask for base64."""
    return _with_vectors(body, b'"', _unpacked)


def _with_vectors(body: bytes, first: bytes, change: Callable[[Raw], Raw]) -> bytes:
    try:
        fields = decode_fields(body)
        items = decode_choices(fields["data"])
        found = [item for item in items if bytes(item.get("embedding", b""))[:1] == first]
        for item in found:
            item["embedding"] = change(item["embedding"])
    except (ValueError, RecursionError):
        raise _invalid("embeddings that cannot be read") from None
    return encode({**fields, "data": Raw(encode(items))}) if found else body


def _packed(numbers: Raw) -> Raw:
    vector = array("f", _decode_numbers(numbers))
    if sys.byteorder == "big":
        vector.byteswap()
    return Raw(b'"' + b64encode(vector) + b'"')


def _unpacked(text: Raw) -> Raw:
    vector = array("f", b64decode(msgspec.json.decode(text, type=str), validate=True))
    if sys.byteorder == "big":
        vector.byteswap()
    return Raw(encode(list(vector)))


def complete_identity(
    fields: Fields, *, chat: bool, model: str, known: Mapping[str, Raw] | None = None, whole: bool = False
) -> Fields:
    """Put in what every chunk or answer must have and this one has not: from `known` chunks, or made here.

    LoRAX writes `"id":"null"`, `"model":"null"`, `"created":0`; TGI leaves the id of its usage chunk empty.
    """
    kind = "text_completion" if not chat else "chat.completion" if whole else "chat.completion.chunk"
    if chat and bytes(fields.get("object", b"")) == b'"text_completion"':
        fields["object"] = Raw(encode(kind))  # LoRAX and TGI say so of a chat
    for name in ("id", "object", "created", "model"):
        if not is_placeholder(fields.get(name)):
            continue
        if known is not None and name in known:
            fields[name] = known[name]
        elif name == "id":
            fields[name] = Raw(encode(("chatcmpl-" if chat else "cmpl-") + randomness.token_hex(12)))
        elif name == "object":
            fields[name] = Raw(encode(kind))
        else:
            fields[name] = Raw(encode(int(time.time()) if name == "created" else model))
    return fields


def is_placeholder(value: Raw | None) -> bool:
    return value is None or bytes(value) in (NULL, b'""', b'"null"', b"0")


def _chat_chunks(choice: Fields) -> list[Fields]:
    """The two chunks of a chat choice: all of its message, then its finish reason."""
    message = choice.pop("message", None)
    delta = decode_fields(message) if message is not None and bytes(message) != NULL else {}
    delta = {"role": delta.pop("role", Raw(b'"assistant"')), **delta}
    calls = delta.get("tool_calls")
    if calls is not None and bytes(calls) != NULL:
        delta["tool_calls"] = Raw(encode([_call(place, call) for place, call in enumerate(decode_choices(calls))]))
    finish = choice.pop("finish_reason", Raw(NULL))
    last = {"index": choice["index"], "delta": Raw(b"{}"), "finish_reason": _finish(finish)}
    return [{**choice, "delta": Raw(encode(delta)), "finish_reason": Raw(NULL)}, last]


def _text_chunks(choice: Fields) -> list[Fields]:
    finish = choice.pop("finish_reason", Raw(NULL))
    last = {"text": Raw(b'""'), "index": choice["index"], "logprobs": Raw(NULL), "finish_reason": _finish(finish)}
    return [{**choice, "finish_reason": Raw(NULL)}, last]


def _finish(reason: Raw) -> Raw:
    """A whole answer has ended, whatever it says: a stream without a finish reason counts as cut off."""
    return Raw(b'"stop"') if bytes(reason) == NULL else reason


def _call(place: int, call: Fields) -> Fields:
    """A tool call as a delta."""
    call = whole_call(call)
    return {"index": call.pop("index", Raw(encode(place))), **call}


def _event(fields: Fields) -> bytes:
    # A line end in the provider's JSON can only stand outside its strings, where a space means the same.
    return b"data: " + encode(fields).replace(b"\n", b" ").replace(b"\r", b" ") + b"\n\n"


def _what(body: bytes, content_type: str) -> str:
    if not body:
        return "nothing"
    if body[:1] == b"<" or "html" in content_type:
        return "a web page"
    return "a body that is no JSON object"


def _invalid(what: str) -> UpstreamInvalid:
    return UpstreamInvalid(f"The provider answered 200 with {what}.", sent=True)
