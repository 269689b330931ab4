"""The built-in provider: it answers like OpenAI, byte for byte of the form, and says what it was told.

https://platform.openai.com/docs/api-reference. A word counts as a token. It needs no network and no token.
"""

import base64
import hashlib
import math
import re
import secrets
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import msgspec

from gateway.errors import BadRequest, GatewayError, MissingField, NotFound
from gateway.replies.sse import DONE

Answer = tuple[int, dict[str, str], AsyncIterator[bytes]]

MODEL = "echo"
CREATED = 1_700_000_000  # when the model "echo" came to be: any fixed second will do
FINGERPRINT = "fp_echo000001"
DIMENSIONS = 8
MAX_DIMENSIONS = 4096
MAX_CHOICES = 128
MAX_INPUTS = 2048
MISSING = re.compile(r"missing required field `(\w+)`")
WORD = re.compile(r"\S+\s*|\s+")
JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"

Body = TypeVar("Body", bound=msgspec.Struct)


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part["text"] for part in self.content if isinstance(part.get("text"), str))
        return self.content or ""


class Generation(msgspec.Struct, kw_only=True):
    """What chat and completions have in common."""

    model: str
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class ChatBody(Generation):
    messages: list[Message]


class CompletionBody(Generation):
    prompt: str | list[str] | None = None


class EmbeddingBody(msgspec.Struct):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None


def answer(path: str, body: bytes) -> Answer:
    """Status, headers and body of the answer to one call; `path` is that of the URL, with or without `/v1`."""
    route = path.removeprefix("/v1")
    headers = {"content-type": JSON, "x-request-id": f"req_{secrets.token_hex(16)}", "openai-version": "2020-10-01"}
    try:
        if route == "/models":
            return 200, headers, _whole({"object": "list", "data": [_model()]})
        if route == f"/models/{MODEL}":
            return 200, headers, _whole(_model())
        if route not in ENDPOINTS:
            raise NotFound(f"Invalid URL ({path})")
        told, live = ENDPOINTS[route](body)
    except GatewayError as exc:
        return exc.status, headers, _whole(exc.body())
    if live is None:
        return 200, headers, _whole(told)
    return 200, {**headers, "content-type": EVENT_STREAM}, _streamed(live)


async def _whole(value: dict[str, Any]) -> AsyncIterator[bytes]:
    yield msgspec.json.encode(value)


async def _streamed(chunks: Iterator[dict[str, Any]]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    yield DONE


def _model() -> dict[str, Any]:
    return {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "system"}


Told = tuple[dict[str, Any], Iterator[dict[str, Any]] | None]


def _chat(body: bytes) -> Told:
    ask = _decode(body, ChatBody)
    if not ask.messages:
        raise BadRequest("Invalid 'messages': empty array.", param="messages", code="empty_array")
    spoken = [message.text() for message in ask.messages if message.role == "user"]
    words, finish = _words(spoken[-1] if spoken else ask.messages[-1].text(), ask)
    prompt_tokens = sum(len(message.text().split()) for message in ask.messages)
    usage = _usage(prompt_tokens, _tokens(words) * _choices(ask))
    head = _head("chatcmpl", "chat.completion", ask.model)
    if ask.stream:
        head["object"] = "chat.completion.chunk"
        return {}, _chat_chunks(head, words, finish, ask, usage)
    message: dict[str, Any] = {"role": "assistant", "content": "".join(words), "refusal": None, "annotations": []}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": finish}
        for index in range(_choices(ask))
    ]
    return {**head, "choices": choices, "usage": usage, "service_tier": "default", **_print()}, None


def _chat_chunks(
    head: dict[str, Any], words: list[str], finish: str, ask: Generation, usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    deltas: list[tuple[dict[str, Any], str | None]] = [({"role": "assistant", "content": "", "refusal": None}, None)]
    deltas += [({"content": word}, None) for word in words]
    deltas.append(({}, finish))
    for delta, reason in deltas:
        for index in range(_choices(ask)):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield _chunk(head, [choice], ask, None)
    if _wants_usage(ask):
        yield _chunk(head, [], ask, usage)


def _completion(body: bytes) -> Told:
    ask = _decode(body, CompletionBody)
    prompts = [ask.prompt or ""] if not isinstance(ask.prompt, list) else ask.prompt
    if not 1 <= len(prompts) <= MAX_CHOICES:
        raise BadRequest("Invalid 'prompt': empty array, or too long.", param="prompt", code="invalid_value")
    told = [_words(prompt, ask) for prompt in prompts for _ in range(_choices(ask))]
    usage = _usage(sum(len(prompt.split()) for prompt in prompts), sum(_tokens(words) for words, _ in told))
    head = _head("cmpl", "text_completion", ask.model)
    if ask.stream:
        return {}, _text_chunks(head, told, ask, usage)
    choices = [_text(index, "".join(words), finish) for index, (words, finish) in enumerate(told)]
    return {**head, "choices": choices, "usage": usage, **_print()}, None


def _text_chunks(
    head: dict[str, Any], told: list[tuple[list[str], str]], ask: Generation, usage: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    for index, (words, finish) in enumerate(told):
        for word in words:
            yield _chunk(head, [_text(index, word, None)], ask, None)
        yield _chunk(head, [_text(index, "", finish)], ask, None)
    if _wants_usage(ask):
        yield _chunk(head, [], ask, usage)


def _embeddings(body: bytes) -> Told:
    ask = _decode(body, EmbeddingBody)
    inputs = _inputs(ask.input)
    size = DIMENSIONS if ask.dimensions is None else ask.dimensions
    if not 1 <= size <= MAX_DIMENSIONS:
        raise BadRequest(f"Invalid 'dimensions': 1 to {MAX_DIMENSIONS}.", param="dimensions", code="invalid_value")
    if ask.encoding_format not in (None, "float", "base64"):
        raise BadRequest(
            "Invalid 'encoding_format': 'float' or 'base64'.", param="encoding_format", code="invalid_value"
        )
    packed = [_vector(text, size) for text, _ in inputs]
    vectors: list[Any] = [struct.unpack(f"<{size}f", vector) for vector in packed]
    if ask.encoding_format == "base64":
        vectors = [base64.b64encode(vector).decode() for vector in packed]
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    tokens = sum(count for _, count in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": ask.model, "usage": usage}, None


def _inputs(given: str | list[str | int | list[int]]) -> list[tuple[str, int]]:
    """Each input as text, and its tokens: a list of numbers is one input of that many tokens."""
    if isinstance(given, str):
        items: list[Any] = [given]
    else:
        items = [given] if given and all(isinstance(item, int) for item in given) else given
    if not 1 <= len(items) <= MAX_INPUTS or any(isinstance(item, int) for item in items) or "" in items:
        raise BadRequest(
            "'$.input' is invalid: text, or a list of 1 to 2048 texts.", param="input", code="invalid_value"
        )
    return [(item, len(item.split())) if isinstance(item, str) else (str(item), len(item)) for item in items]


def _vector(text: str, size: int) -> bytes:
    """A unit vector that depends on nothing but the text, as little-endian 32-bit floats."""
    noise = hashlib.shake_256(text.encode("utf-8", "replace")).digest(4 * size)
    parts = [number / 2**31 - 1 for number in struct.unpack(f"<{size}I", noise)]
    length = math.sqrt(sum(part * part for part in parts)) or 1.0
    return struct.pack(f"<{size}f", *(part / length for part in parts))


ENDPOINTS: dict[str, Callable[[bytes], Told]] = {
    "/chat/completions": _chat,
    "/completions": _completion,
    "/embeddings": _embeddings,
}


def _decode(body: bytes, form: type[Body]) -> Body:
    """The body in that form, or a 400 in OpenAI's words that names the field."""
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as exc:
        text = str(exc)
        if missing := MISSING.search(text):
            raise MissingField(f"Missing required parameter: '{missing[1]}'.", param=missing[1]) from None
        wrong, _, place = text.partition(" - at ")
        param = place.strip("`").removeprefix("$").removeprefix(".") or None
        raise BadRequest(f"Invalid type for '{param}': {wrong}.", param=param, code="invalid_type") from None
    except (ValueError, RecursionError):
        raise BadRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from None


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{secrets.token_hex(15)}", "object": kind, "created": int(time.time()), "model": model}


def _print() -> dict[str, str]:
    return {"system_fingerprint": FINGERPRINT}


def _text(index: int, words: str, finish: str | None) -> dict[str, Any]:
    return {"text": words, "index": index, "logprobs": None, "finish_reason": finish}


def _chunk(head: dict[str, Any], choices: list[Any], ask: Generation, usage: dict[str, Any] | None) -> dict[str, Any]:
    """One chunk; where usage was asked for, OpenAI writes `usage` into each, null until the last."""
    return {**head, **_print(), "choices": choices, **({"usage": usage} if _wants_usage(ask) else {})}


def _wants_usage(ask: Generation) -> bool:
    return bool(ask.stream_options and ask.stream_options.include_usage)


def _choices(ask: Generation) -> int:
    count = 1 if ask.n is None else ask.n
    if not 1 <= count <= MAX_CHOICES:
        raise BadRequest(f"Invalid 'n': 1 to {MAX_CHOICES}.", param="n", code="invalid_value")
    return count


def _words(text: str, ask: Generation) -> tuple[list[str], str]:
    """The text in pieces of a word each, cut at the limit that the caller gave, and the finish reason."""
    words = WORD.findall(text)
    limit = ask.max_completion_tokens if ask.max_completion_tokens is not None else ask.max_tokens
    if limit is None:
        return words, "stop"
    if limit < 1:
        raise BadRequest("Invalid 'max_tokens': at least 1.", param="max_tokens", code="integer_below_min_value")
    return words[:limit], "length" if len(words) > limit else "stop"


def _tokens(words: list[str]) -> int:
    return sum(1 for word in words if word.strip())


def _usage(tokens_in: int, tokens_out: int) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "total_tokens": tokens_in + tokens_out,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
