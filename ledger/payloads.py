"""A body as it is looked through and kept: JSON with its escapes undone, of a stream what its pieces add up to (pure).

A provider may cut an e-mail address into three events; only the whole text shows what it is.
"""

from typing import Any

import msgspec

DATA = b"data:"
# Where a stream's text comes in pieces: below a choice, or in the `delta` of an event of the Responses API.
PIECES = ("delta", "text")
DEPTH = 12


class Taken(msgspec.Struct):
    """One request's bodies as they came and went, cut at the cap."""

    id: str
    at: float
    key: str
    key_name: str
    alias: str
    model: str
    outcome: str
    request: bytes
    response: bytes
    request_bytes: int
    response_bytes: int
    stream: bool


def readable(body: bytes, *, stream: bool) -> str:
    """The text of a body; what is no JSON stays as it is, with what is no UTF-8 replaced."""
    if stream:
        return assembled(body)
    try:
        return msgspec.json.encode(msgspec.json.decode(body)).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def assembled(body: bytes) -> str:
    """One JSON object of a stream of events: each text in full, of all else the last value."""
    whole: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for line in body.splitlines():
        if not line.startswith(DATA) or line.strip() == b"data: [DONE]":
            continue
        try:
            event = msgspec.json.decode(line[len(DATA) :].strip())
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue  # the last one may have been cut off
        if isinstance(event, dict):
            _take(event, whole, texts)
    if not whole and not texts:
        return readable(body, stream=False)  # a refusal
    return msgspec.json.encode({**whole, "texts": texts}).decode()


def _take(event: dict[str, Any], whole: dict[str, Any], texts: dict[str, str]) -> None:
    kind = str(event.get("type") or "")
    place = ".".join(str(event[name]) for name in ("item_id", "output_index", "content_index") if name in event)
    for name, value in event.items():
        if name == "choices" and isinstance(value, list):
            for number, choice in enumerate(value):
                if isinstance(choice, dict):
                    index = choice.get("index", number)
                    for piece in PIECES:
                        _gather(choice.get(piece), f"{index}", texts, DEPTH)
                    if choice.get("finish_reason") is not None:
                        whole.setdefault("finish_reasons", {})[str(index)] = choice["finish_reason"]
        elif name == "delta":
            _gather(value, ".".join(filter(None, (kind.removesuffix(".delta"), place))), texts, DEPTH)
        elif value is not None and name != "type":
            whole[name] = value


def _gather(value: Any, place: str, texts: dict[str, str], depth: int) -> None:
    """Every text below `value`, added to what was at its place before."""
    if isinstance(value, str):
        texts[place] = texts.get(place, "") + value
    elif isinstance(value, dict) and depth:
        for name, inner in value.items():
            _gather(inner, f"{place}.{name}", texts, depth - 1)
    elif isinstance(value, list) and depth:
        for number, inner in enumerate(value):
            index = inner.get("index", number) if isinstance(inner, dict) else number
            _gather(inner, f"{place}.{index}", texts, depth - 1)
