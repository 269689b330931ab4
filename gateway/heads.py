"""What the handler reads from a request's head before it reads anything else: the key, the length, the path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from gateway.errors import BadRequest
from providers import callers

CREDENTIALS = (b"authorization", b"api-key", b"x-api-key")
READ = frozenset({*CREDENTIALS, b"content-length", b"content-encoding"})


@dataclass(frozen=True, slots=True)
class Head:
    """`token` is the client's key as it came, "" where there is none."""

    token: str
    content_length: bytes | None
    content_encoding: bytes


def read(scope: dict[str, Any]) -> Head:
    """Raises BadRequest for a field that decides something and is given twice with different values."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in READ and found.setdefault(name, value) != value:
            raise BadRequest(f"The header `{name.decode('latin-1')}` is given twice.")
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
    )


def caller(scope: Mapping[str, Any]) -> str:
    """The address that the call comes from; "" where the server does not know it."""
    peer = (scope.get("client") or ("",))[0]
    hops: int = settings.GATEWAY_TRUSTED_PROXY_HOPS
    if hops < 1:
        return peer
    forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    return callers.address(peer, forwarded, hops)


def canonical(path: str) -> str:
    """`/v1/...` for every spelling of the base URL that is met: without `/v1`, with doubled or trailing slashes."""
    if path.startswith("/v1/") and not path.startswith("/v1/v1/") and not path.endswith("/") and "//" not in path:
        return path
    parts = [part for part in path.split("/") if part]
    if parts[:1] != ["v1"]:
        parts.insert(0, "v1")
    elif parts[1:2] == ["v1"]:
        parts.pop(0)
    return "/" + "/".join(parts)
