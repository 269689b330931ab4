"""A recorded stream as the whole completion that would have come without `stream`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.replies.sse import events, payload

# In a delta they say what a part is, and are not its text: the first one holds.
NAMES = frozenset({"role", "id", "type", "name", "index", "object", "created", "model"})


def completion(stream: bytes, *, chat: bool) -> bytes:
    """`stream` is canonical, complete and without an error. Raises ValueError where its chunks are no chunks."""
    head: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    usage: Any = None
    for event in events(stream):
        data = payload(event)
        if data == b"[DONE]":
            break
        chunk = msgspec.json.decode(data, type=dict[str, Any])
        usage = chunk.pop("usage", None) or usage
        for part in chunk.pop("choices", None) or ():
            _add_choice(choices, part, chat=chat)
        chunk.pop("obfuscation", None)
        head = {**head, **{name: value for name, value in chunk.items() if value is not None or name not in head}}
    head["object"] = "chat.completion" if chat else "text_completion"
    head["choices"] = [choices[index] for index in sorted(choices)]
    for choice in head["choices"]:
        for call in (choice.get("message") or {}).get("tool_calls") or ():
            call.pop("index", None)
    if usage is not None:
        head["usage"] = usage
    return msgspec.json.encode(head)


def _add_choice(choices: dict[int, dict[str, Any]], part: dict[str, Any], *, chat: bool) -> None:
    index = part.get("index") or 0
    choice = choices.get(index)
    if choice is None:
        empty = {"message": {"role": "assistant", "content": None}} if chat else {"text": ""}
        choice = choices[index] = {"index": index, **empty, "logprobs": None, "finish_reason": None}
    delta = part.pop("delta", None)
    if chat and isinstance(delta, dict):
        merge(choice["message"], delta)
    text = part.pop("text", None)
    if not chat and isinstance(text, str):
        choice["text"] += text
    logprobs = part.pop("logprobs", None)
    if isinstance(logprobs, dict):
        choice["logprobs"] = choice["logprobs"] or {}
        merge(choice["logprobs"], logprobs)
    # The finish reason and what a provider puts beside it: the last word holds.
    choice.update({name: value for name, value in part.items() if value is not None})


def merge(into: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Texts go behind each other, lists too but for parts with an index, which belong together by it."""
    for name, value in delta.items():
        known = into.get(name)
        if known is None:
            into[name] = _whole(value) if isinstance(value, list) else value
        elif value is None:
            continue
        elif isinstance(known, str) and isinstance(value, str):
            if name not in NAMES:
                into[name] = known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            _extend(known, value)
        elif name not in NAMES:
            into[name] = value


def _whole(parts: list[Any]) -> list[Any]:
    made: list[Any] = []
    _extend(made, parts)
    return made


def _extend(known: list[Any], parts: list[Any]) -> None:
    for part in parts:
        index = part.get("index") if isinstance(part, dict) else None
        same = next((one for one in known if isinstance(one, dict) and one.get("index") == index), None)
        if index is None or same is None:
            known.append(part)
        else:
            merge(same, part)
