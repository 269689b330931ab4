"""Declared differences of a provider: a row, not a release, repairs what drifts upstream (pure).

    {"rename": {"max_completion_tokens": "max_tokens"}, "drop": ["user"], "set": {"safe_prompt": true}}

docs/providers.md tells what each name is for. Requests are edited in providers/edits.py, answers in gateway/.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from providers.targets import ErrorRule, Quirks

# The gateway decides these itself: who is asked, and how the answer is read.
OWN_FIELDS = frozenset({"model", "stream"})
# What frames a message or signs it: a credential belongs into its sealed column.
OWN_HEADERS = frozenset(
    {
        *("host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "te"),
        *("trailer", "upgrade", "expect", "keep-alive", "accept-encoding", "proxy-connection"),
        *("authorization", "proxy-authorization", "api-key", "x-api-key", "x-goog-api-key", "cookie"),
    }
)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # https://www.rfc-editor.org/rfc/rfc9110#section-5.6.2
PATH = re.compile(r"/[A-Za-z0-9_./-]{1,200}\Z")
REASONING = ("reasoning", "reasoning_content")
# https://platform.openai.com/docs/api-reference/chat/object#chat-object-choices-finish_reason
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
FIXUPS = {
    "content_parts": "content that comes as a list of parts becomes text, its thinking becomes reasoning",
    "empty_choices": "chunks that hold neither choices nor usage are left out",
}


class QuirksError(ValueError):
    """The JSON declares nothing usable; the message names the key."""


def parse(data: object) -> Quirks:
    """Differences from JSON; the values of `set` come back encoded. Raises QuirksError."""
    if not isinstance(data, dict):
        raise QuirksError("quirks must be an object")
    for name in data:
        if name not in READERS:
            raise QuirksError(f"quirks.{name} is unknown: there are {', '.join(NAMES)}")
    return Quirks(**{name: READERS[name](value) for name, value in data.items()})


def _rename(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise QuirksError("quirks.rename must be an object of old and new names")
    for old, new in value.items():
        _field("rename", old)
        _field("rename", new)
        if new in value:
            raise QuirksError(f"quirks.rename.{old} leads to {new}, which is renamed itself")
    return dict(value)


def _names(edit: str) -> Callable[[object], frozenset[str]]:
    def read(value: object) -> frozenset[str]:
        if not isinstance(value, list):
            raise QuirksError(f"quirks.{edit} must be a list of names")
        return frozenset(_field(edit, name) for name in value)

    return read


def _set(value: object) -> dict[str, msgspec.Raw]:
    if not isinstance(value, dict):
        raise QuirksError("quirks.set must be an object of names and values")
    return {_field("set", name): _encoded(name, item) for name, item in value.items()}


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise QuirksError("quirks.headers must be an object of names and texts")
    headers: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not TOKEN.match(name):
            raise QuirksError(f"quirks.headers.{name} is no header name")
        if name.lower() in OWN_HEADERS:
            raise QuirksError(f"quirks.headers.{name} is the gateway's own to send")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable() or text != text.strip():
            raise QuirksError(f"quirks.headers.{name} must be a text of printable ASCII")
        headers[name.lower()] = text
    return headers


def _texts(edit: str, *, may_be_empty: bool = False) -> Callable[[object], dict[str, str]]:
    def read(value: object) -> dict[str, str]:
        if not isinstance(value, dict):
            raise QuirksError(f"quirks.{edit} must be an object of names and texts")
        for name, text in value.items():
            if not isinstance(name, str) or not name or not isinstance(text, str) or not (text or may_be_empty):
                raise QuirksError(f"quirks.{edit}.{name} must be a text")
        return dict(value)

    return read


def _allow(value: object) -> dict[str, frozenset[str]]:
    if not isinstance(value, dict):
        raise QuirksError('quirks.allow must be an object of paths and names, such as {"/chat/completions": ["tools"]}')
    return {_path("allow", path): _names(f"allow.{path}")(names) for path, names in value.items()}


def _paths(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise QuirksError("quirks.paths must be an object of paths")
    return {_path("paths", old): "" if new in (None, "") else _path("paths", new) for old, new in value.items()}


def _refuse(value: object) -> dict[str, str]:
    return {_field("refuse", name): text for name, text in _texts("refuse")(value).items()}


def _finish(value: object) -> dict[str, str]:
    found = _texts("finish")(value)
    for name, reason in found.items():
        if reason not in FINISH_REASONS:
            raise QuirksError(f"quirks.finish.{name} must be one of {', '.join(FINISH_REASONS)}")
    return found


def _fixups(value: object) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name in FIXUPS for name in value):
        raise QuirksError(f"quirks.fixups must be a list of names: there are {', '.join(FIXUPS)}")
    return frozenset(value)


def _reasoning(value: object) -> str:
    if value not in REASONING:
        raise QuirksError(f"quirks.reasoning must be one of {', '.join(REASONING)}")
    return str(value)


def _token_ids(value: object) -> bool:
    if not isinstance(value, bool):
        raise QuirksError("quirks.token_ids must be true or false")
    return value


def _steps(edit: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, str) or not value or "" in value.split("."):
        raise QuirksError(f"quirks.{edit} must be a way into the answer, such as x_groq.usage")
    return tuple(value.split("."))


def _error_paths(value: object) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list):
        raise QuirksError("quirks.error_paths must be a list of ways into the body, such as fault.detail")
    return tuple(_steps("error_paths", path) for path in value)


def _errors(value: object) -> dict[int, ErrorRule]:
    if not isinstance(value, dict):
        raise QuirksError('quirks.errors must be an object of statuses, such as {"403": {"status": 400}}')
    return {_status("errors", status): _error_rule(status, rule) for status, rule in value.items()}


def _error_rule(status: str, value: object) -> ErrorRule:
    where = f"quirks.errors.{status}"
    if not isinstance(value, dict) or not value or not value.keys() <= {"status", "code", "type"}:
        raise QuirksError(f"{where} must be an object of status, code and type")
    shown, words = value.get("status", 0), {name: value[name] for name in ("code", "type") if name in value}
    if "status" in value and (isinstance(shown, bool) or not isinstance(shown, int) or not 400 <= shown <= 599):
        raise QuirksError(f"{where}.status must be a status from 400 to 599")
    if not all(isinstance(word, str) and word for word in words.values()):
        raise QuirksError(f"{where}: code and type must be texts")
    return ErrorRule(status=shown, **words)


def _asleep(value: object) -> dict[int, str]:
    found = _texts("asleep", may_be_empty=True)(value)
    return {_status("asleep", status): text.lower() for status, text in found.items()}


def _adapter(value: object) -> str:
    if not isinstance(value, str) or "{adapter}" not in value or "{" in re.sub(r"\{(adapter|model)\}", "", value):
        raise QuirksError('quirks.adapter must be a text such as "{adapter}" or "{adapter}#{model}"')
    return value


def _status(edit: str, value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[45]\d\d", value):
        raise QuirksError(f"quirks.{edit}.{value} must be a status from 400 to 599, in quotes")
    return int(value)


def _path(edit: str, value: object) -> str:
    if not isinstance(value, str) or not PATH.match(value) or ".." in value or "//" in value:
        raise QuirksError(f"quirks.{edit}: {value!r} is no path below the base URL, such as /chat/completions")
    return value


def _field(edit: str, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise QuirksError(f"quirks.{edit} holds a name that is no text")
    if name in OWN_FIELDS:
        raise QuirksError(f"quirks.{edit}.{name}: the gateway writes this field itself")
    return name


def _encoded(name: str, value: Any) -> msgspec.Raw:
    try:
        return msgspec.Raw(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError):
        raise QuirksError(f"quirks.set.{name} is no JSON value") from None


READERS: dict[str, Callable[[object], Any]] = {
    "rename": _rename,
    "drop": _names("drop"),
    "allow": _allow,
    "refuse": _refuse,
    "token_ids": _token_ids,
    "lists": _names("lists"),
    "roles": _texts("roles"),
    "message_drop": _names("message_drop"),
    "set": _set,
    "headers": _headers,
    "paths": _paths,
    "adapter": _adapter,
    "finish": _finish,
    "fixups": _fixups,
    "reasoning": _reasoning,
    "usage_path": lambda value: _steps("usage_path", value),
    "errors": _errors,
    "error_paths": _error_paths,
    "asleep": _asleep,
}
NAMES = tuple(READERS)
