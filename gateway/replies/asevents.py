"""A whole response as the stream that would have carried it, where a client asked for one and its provider gave none.

https://platform.openai.com/docs/api-reference/responses-streaming. OpenAI's libraries take JSON for an empty stream.
"""

from typing import Any

import msgspec

ENDS = {"completed": "response.completed", "incomplete": "response.incomplete", "failed": "response.failed"}


def response_events(body: bytes) -> bytes | None:
    """The events; None where the response has not ended, or is none."""
    response = msgspec.json.decode(body)
    if not isinstance(response, dict) or not isinstance(response.get("output"), list):
        return None
    last = ENDS.get(str(response.get("status", "completed")))
    if last is None:
        return None
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    found = [("response.created", {"response": begun}), ("response.in_progress", {"response": begun})]
    for index, item in enumerate(response["output"]):
        found += _item(index, item) if isinstance(item, dict) else []
    found.append((last, {"response": response}))
    return b"".join(_event(number, kind, fields) for number, (kind, fields) in enumerate(found))


def _item(index: int, item: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    place = {"item_id": item.get("id", ""), "output_index": index}
    parts = item.get("content") if item.get("type") == "message" else None
    bare = {**item, "status": "in_progress"}
    inner: list[tuple[str, dict[str, Any]]] = []
    if isinstance(parts, list):
        bare["content"] = []
        for number, part in enumerate(parts):
            inner += _part({**place, "content_index": number}, part) if isinstance(part, dict) else []
    elif item.get("type") == "function_call":
        said = item.get("arguments", "")
        bare["arguments"] = ""
        inner.append(("response.function_call_arguments.delta", {**place, "delta": said}))
        inner.append(("response.function_call_arguments.done", {**place, "name": item.get("name"), "arguments": said}))
    added, done = {"output_index": index, "item": bare}, {"output_index": index, "item": item}
    return [("response.output_item.added", added), *inner, ("response.output_item.done", done)]


def _part(place: dict[str, Any], part: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    kind = "refusal" if part.get("type") == "refusal" else "text"
    said = part.get(kind, "")
    name = "response.refusal" if kind == "refusal" else "response.output_text"
    logprobs: dict[str, Any] = {} if kind == "refusal" else {"logprobs": []}
    return [
        ("response.content_part.added", {**place, "part": {**part, kind: ""}}),
        (f"{name}.delta", {**place, "delta": said, **logprobs}),
        (f"{name}.done", {**place, kind: said, **logprobs}),
        ("response.content_part.done", {**place, "part": part}),
    ]


def _event(number: int, kind: str, fields: dict[str, Any]) -> bytes:
    data = msgspec.json.encode({"type": kind, "sequence_number": number, **fields})
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
