"""Declared edits of a provider's requests: a row, not a release, repairs what drifts upstream (pure).

    {"drop": ["user"], "rename": {"max_tokens": "max_completion_tokens"},
     "set": {"safe_prompt": true}, "headers": {"x-title": "gateway"}}

They apply in that order to the top-level fields of the JSON body: dropped, renamed, set.
"""

import re
from typing import Any

import msgspec

from providers.targets import Quirks

NAMES = ("rename", "drop", "set", "headers")
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


class QuirksError(ValueError):
    """The JSON declares no usable edits; the message names the key."""


def parse(data: object) -> Quirks:
    """Edits from JSON; the values of `set` come back encoded. Raises QuirksError."""
    if not isinstance(data, dict):
        raise QuirksError("quirks must be an object")
    for name in data:
        if name not in NAMES:
            raise QuirksError(f"quirks.{name} is unknown: there are {', '.join(NAMES)}")
    return Quirks(
        rename=_rename(data.get("rename", {})),
        drop=_drop(data.get("drop", [])),
        set=_set(data.get("set", {})),
        headers=_headers(data.get("headers", {})),
    )


def apply(quirks: Quirks, body: dict[str, msgspec.Raw]) -> None:
    """Edit a request's top-level fields in place. A rename leaves a field alone where the new name is taken."""
    for name in quirks.drop:
        body.pop(name, None)
    for old, new in quirks.rename.items():
        if old in body and new not in body:
            body[new] = body.pop(old)
    for name, value in quirks.set.items():
        body[name] = value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))


def _rename(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise QuirksError("quirks.rename must be an object of old and new names")
    for old, new in value.items():
        _field("rename", old)
        _field("rename", new)
        if new in value:
            raise QuirksError(f"quirks.rename.{old} leads to {new}, which is renamed itself")
    return dict(value)


def _drop(value: object) -> frozenset[str]:
    if not isinstance(value, list):
        raise QuirksError("quirks.drop must be a list of names")
    return frozenset(_field("drop", name) for name in value)


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
