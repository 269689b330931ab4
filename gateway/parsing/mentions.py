"""The ids that a request or an answer names (pure): in its path, and in the fields that hold ids of something else."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec

from gateway.errors import BadRequest

MAX_IDS = 500
# Fields whose text, list of texts, or object with an `id` names something that a provider keeps.
NAMING = frozenset(
    {
        *("previous_response_id", "response_id", "conversation", "conversation_id", "file_id", "file_ids"),
        *("input_file_id", "training_file", "validation_file", "vector_store_id", "vector_store_ids", "part_ids"),
        *("assistant_id", "thread_id", "run_id", "batch_id", "upload_id", "container", "container_id", "eval_id"),
        *("skill_id", "video_id", "voice_id", "agent_id", "session_id"),
    }
)
# What of it may stand deeper than at the top, and an escape by which a field's name could be written otherwise.
DEEPER = (b"file_id", b"vector_store_id", b"container", b"skill_id")
ESCAPED = re.compile(rb"\\u00[2-7]")
# What an answer tells of beside itself: what a batch or a training has written, what an upload has become.
MADE = ("id", "output_file_id", "error_file_id", "result_files", "file")
# Words of OpenAI's paths, https://platform.openai.com/docs/api-reference: they are no ids.
WORDS = frozenset(
    {
        *("accept", "activate", "alpha", "archive", "batches", "calls", "cancel", "characters", "checkpoints"),
        *("client_secrets", "compact", "complete", "completions", "content", "count_tokens", "edits", "events"),
        *("extensions", "file_batches", "files", "generations", "graders", "hangup", "images", "input_items"),
        *("input_tokens", "items", "jobs", "messages", "output_items", "parts", "pause", "permissions", "refer"),
        *("reject", "remix", "resume", "run", "runs", "search", "sessions", "speech", "steps", "submit_tool_outputs"),
        *("threads", "transcription_sessions", "transcriptions", "translations", "validate", "variations"),
        *("vector_stores", "versions", "voice_consents", "voices"),
    }
)


def in_path(path: str) -> list[str]:
    """The parts of a path below `/v1`, as it came, that may be ids; the first one names the family."""
    parts = [unquote(part) for part in path.split("/")[2:]]
    return [part for part in parts if part and part not in WORDS]


def in_body(fields: Mapping[str, msgspec.Raw], body: bytes) -> list[str]:
    """The ids in a JSON body of any operation that is not of the kind of chat. Raises BadRequest beyond MAX_IDS."""
    found: list[str] = []
    if any(name in body for name in DEEPER) or _hides(body):
        _walk({name: _value(name, raw) for name, raw in fields.items()}, found)
    else:
        for name, raw in fields.items():
            if name in NAMING:
                _note(_value(name, raw), found)
    return _checked(found)


def in_chat(fields: Mapping[str, msgspec.Raw], body: bytes) -> list[str]:
    """The same for chat, where files may be named: of a chat without one, no more is read than that there is none."""
    if b"file_id" not in body and not _hides(body):
        return []
    found: list[str] = []
    messages = fields.get("messages")
    _walk(_value("messages", messages) if messages is not None else None, found)
    return _checked(found)


def made(fields: Mapping[str, msgspec.Raw]) -> list[str]:
    """The ids in an answer's own fields."""
    found: list[str] = []
    for name in MADE:
        if name in fields:
            with suppress(msgspec.DecodeError):  # a number out of all range is no id
                _note(msgspec.json.decode(fields[name]), found)
    return found[:MAX_IDS]


def _value(name: str, raw: msgspec.Raw) -> Any:
    """Raises BadRequest where it holds a number that no computer takes; all else of it has been looked at."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        text = f"`{name}` holds a number that is too large, or text that is none."
        raise BadRequest(text, param=name, code="invalid_value") from None


def _hides(body: bytes) -> bool:
    return b"\\u00" in body and ESCAPED.search(body) is not None


def _walk(value: Any, found: list[str]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in NAMING:
                _note(inner, found)
            _walk(inner, found)
    elif isinstance(value, list):
        for inner in value:
            _walk(inner, found)


def _note(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list):
        found += [inner for inner in value if isinstance(inner, str)]
    elif isinstance(value, dict) and isinstance(value.get("id"), str):
        found.append(value["id"])


def _checked(found: Iterable[str]) -> list[str]:
    ids = list(dict.fromkeys(name for name in found if name))
    if len(ids) > MAX_IDS:
        raise BadRequest(f"The body names more than {MAX_IDS} files or other ids.")
    return ids
