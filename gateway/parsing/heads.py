"""What the handler reads from a request's head before it reads anything else: the key, the length, the provider."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from django.conf import settings

from gateway.errors import BadRequest
from providers import callers
from providers.ids import uuid7

CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
PROVIDER = b"x-gateway-provider"
END_USER = b"x-gateway-end-user"
EXPLAIN = b"x-gateway-explain"
OWN = (PROVIDER, END_USER, EXPLAIN)
READ = frozenset({*CREDENTIALS, *OWN, b"content-length", b"content-encoding", b"content-type", b"origin"})
# What is read as JSON: it says so, says nothing, or is what a client says that knows no better (curl, a browser that
# spares itself the preflight). All else is passed on as it comes.
JSON = frozenset({b"", b"application/json", b"application/x-www-form-urlencoded", b"text/plain"})
BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
KEYED = "idempotency-key"
# What of a client's head goes on to the provider; all else that a provider sees is made here.
FORWARDED = frozenset({b"openai-beta", b"anthropic-beta", b"anthropic-version", KEYED.encode()})
# What a trusted proxy may call a request; the ledger's column has room for it and for what makes it unique.
NAMED = re.compile(r"[A-Za-z0-9._:-]{8,32}\Z")
UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
ID_CHARS = 40


class Head(msgspec.Struct, frozen=True):
    """`token` is the client's key as it came, "" where there is none."""

    token: str
    content_length: bytes | None
    content_encoding: bytes
    is_upload: bool  # the body is none that is read as JSON
    provider: str  # by its name, "" where the client names none
    forwarded: list[tuple[str, str]]
    origin: str  # of the page that calls, "" where it is none
    end_user: bytes | None  # whom a server names that holds a secret key
    explains: bool  # nothing is to be done, only said what would be


def read(scope: dict[str, Any]) -> Head:
    """Raises BadRequest for a field that decides something and is given twice with different values."""
    found: dict[bytes, bytes] = {}
    forwarded: list[tuple[str, str]] = []
    for name, value in scope["headers"]:
        if name in READ and found.setdefault(name, value) != value:
            raise BadRequest(f"The header `{name.decode('latin-1')}` is given twice.")
        if name in FORWARDED and value:
            forwarded.append((name.decode("ascii"), _printable(name, value)))
    token = b""
    for name in CREDENTIALS:
        if name in found:
            token = found[name]
            if name == b"authorization":
                scheme, _, rest = token.partition(b" ")
                token = rest if scheme.lower() == b"bearer" else b""
            break
    return Head(
        token.strip().decode("latin-1"),
        found.get(b"content-length"),
        found.get(b"content-encoding", b"").strip().lower(),
        scope["method"] not in BODILESS and not is_json(found.get(b"content-type", b"")),
        found.get(PROVIDER, b"").strip().decode("latin-1"),
        forwarded,
        found[b"origin"].decode("latin-1") if b"origin" in found else "",
        found.get(END_USER),
        found.get(EXPLAIN, b"0") not in (b"0", b""),
    )


def is_json(content_type: bytes) -> bool:
    """Whether a body of that type is read as JSON, and so for its model."""
    if content_type in JSON:
        return True
    kind = content_type.partition(b";")[0].strip().lower()
    return kind in JSON or kind.endswith(b"+json")


def _printable(name: bytes, value: bytes) -> str:
    """A header that is sent on must be one for every provider's HTTP library too."""
    text = value.decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise BadRequest(f"The header `{name.decode('ascii')}` holds characters that are not printable ASCII.")
    return text


def for_provider(forwarded: list[tuple[str, str]], principal: str, end_user: str) -> list[tuple[str, str]]:
    """The same with an Idempotency-Key of its own for each client: at a provider all of them are one account, where two
    that chose the same key would meet, and one be given the other's answer."""
    return [
        (name, digest(part.encode() for part in (principal, end_user, text)) if name == KEYED else text)
        for name, text in forwarded
    ]


def digest(parts: Iterable[bytes]) -> str:
    """Of an Idempotency-Key and whose it is, or of what was asked with it: 40 hex digits."""
    found = hashlib.blake2b(digest_size=20)
    for part in parts:
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def value(scope: Mapping[str, Any], name: bytes) -> bytes:
    """That field of the head; several of one name are joined by commas, b"" is none."""
    return b", ".join(content for field, content in scope["headers"] if field == name)


def caller(scope: Mapping[str, Any]) -> str:
    """The address that the call comes from; "" where the server does not know it."""
    peer = (scope.get("client") or ("",))[0]
    hops: int = settings.GATEWAY_TRUSTED_PROXY_HOPS
    if hops < 1:
        return peer
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return callers.address(peer, forwarded, hops)


def request_id(scope: Mapping[str, Any]) -> tuple[str, str]:
    """The request's id in our account, and the one that its answer names.

    They differ where a trusted proxy has named the request: ours is then that name with an end of its own, because a
    name that comes twice (a proxy that tries again, a caller who would like to pay once) must not make one row of two.
    """
    own = "req_" + uuid7()
    if settings.GATEWAY_TRUSTED_PROXY_HOPS or settings.GATEWAY_REQUEST_ID_FROM:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        name = given.replace("-", "") if UUID.match(given) else given
        if NAMED.match(name) and _may_name(scope):
            return f"{name}{own[len(name) - ID_CHARS :]}", given
    return own, own


def _may_name(scope: Mapping[str, Any]) -> bool:
    """Whether a proxy of ours stands in front, or the connection comes from an address that is trusted with it."""
    peer = (scope.get("client") or ("",))[0]
    return settings.GATEWAY_TRUSTED_PROXY_HOPS > 0 or callers.is_within(peer, tuple(settings.GATEWAY_REQUEST_ID_FROM))
