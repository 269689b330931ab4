"""A request's JSON body as one provider takes it: its declared differences, worked in (pure)."""

import re
from collections.abc import Mapping

import msgspec

from providers.quirks import OWN_FIELDS
from providers.targets import Quirks

Fields = dict[str, msgspec.Raw]

# `[1, 2]`, `[[1, 2], [3]]`: texts and lists of texts begin otherwise.
TOKEN_IDS = re.compile(rb"\[\s*(\[\s*)?-?[0-9]")
ABSENT = (b"null", b"false")
TEXT_ONLY = (
    "This provider takes text here and no token ids. With LangChain's OpenAIEmbeddings, set "
    "check_embedding_ctx_length=False."
)

_decode_messages = msgspec.json.Decoder(list[Fields]).decode


class Refused(ValueError):
    """A field that the provider cannot serve, found before anything was sent; `field` is its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def apply(quirks: Quirks, body: Fields, path: str = "") -> None:
    """Edit a request's top-level fields in place, in this order; raises Refused.

    Refused, dropped, renamed, left out where only some are allowed, single texts made lists, messages edited, set. A
    rename leaves a field alone where the new name is taken.
    """
    if quirks.refuse or not quirks.token_ids:
        _refuse(quirks, body)
    for name in quirks.drop:
        body.pop(name, None)
    for old, new in quirks.rename.items():
        if old in body and new not in body:
            body[new] = body.pop(old)
    if quirks.allow and (allowed := quirks.allow.get(path)) is not None:
        for name in [name for name in body if name not in allowed and name not in OWN_FIELDS]:
            del body[name]
    for name in quirks.lists:
        if bytes(body.get(name, b""))[:1] == b'"':
            body[name] = msgspec.Raw(b"[" + bytes(body[name]) + b"]")
    if (quirks.roles or quirks.message_drop) and "messages" in body:
        body["messages"] = _messages(quirks, body["messages"])
    for name, value in quirks.set.items():
        body[name] = value if isinstance(value, msgspec.Raw) else msgspec.Raw(msgspec.json.encode(value))


def with_adapter(quirks: Quirks, model: str, adapter: str) -> str | None:
    """The upstream's name for a model with that adapter on it; None where it takes no adapters."""
    if not quirks.adapter:
        return None
    # Fireworks' `adapter#deployment`; without a deployment the sign goes too.
    name = quirks.adapter if model else quirks.adapter.partition("#")[0]
    return name.replace("{model}", model).replace("{adapter}", adapter)


def _refuse(quirks: Quirks, body: Fields) -> None:
    for name, text in quirks.refuse.items():
        value = bytes(body.get(name, b""))
        # A default that is spelled out asks for nothing.
        if value in ABSENT or (name == "n" and value == b"1"):
            del body[name]
        elif value:
            raise Refused(name, text)
    if not quirks.token_ids:
        for name in ("input", "prompt"):
            if name in body and TOKEN_IDS.match(bytes(body[name])):
                raise Refused(name, TEXT_ONLY)


def _messages(quirks: Quirks, raw: msgspec.Raw) -> msgspec.Raw:
    text = bytes(raw)
    if not any(b'"%b"' % name.encode() in text for name in (*quirks.roles, *quirks.message_drop)):
        return raw
    try:
        messages = _decode_messages(text)
    except (msgspec.MsgspecError, RecursionError):
        return raw  # the provider says what is wrong with them
    for message in messages:
        for name in quirks.message_drop:
            message.pop(name, None)
        role = bytes(message.get("role", b""))
        message |= _role(quirks.roles, role)
    return msgspec.Raw(msgspec.json.encode(messages))


def _role(roles: Mapping[str, str], role: bytes) -> Fields:
    for old, new in roles.items():
        if role == b'"%b"' % old.encode():
            return {"role": msgspec.Raw(msgspec.json.encode(new))}
    return {}
