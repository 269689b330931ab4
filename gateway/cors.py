"""Pages of other origins: which of them may call, and what they may read of the answer.

https://fetch.spec.whatwg.org/#http-cors-protocol. A preflight carries no key, so it is answered for the origins that
any key lets in; the call itself is answered for those of its own key. Secret keys are for servers: pages get nothing.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from gateway.errors import Forbidden
from providers import origins, snapshot

MAX_AGE = b"7200"  # seconds; Chromium keeps a preflight no longer
METHODS = b"GET, POST, DELETE"
# What the official libraries send, and what people add.
SENT = frozenset(
    {"authorization", "api-key", "x-api-key", "content-type", "accept", "user-agent", "idempotency-key"}
    | {"x-request-id", "x-client-request-id"}
)
SENT_PREFIXES = ("x-stainless-", "openai-", "anthropic-")
MAX_ASKED = 100  # header names of one preflight
READ = frozenset({"x-request-id", "openai-processing-ms", "openai-version", "x-should-retry", "idempotent-replayed"})
READ_PREFIXES = ("retry-after", "x-ratelimit-", "x-gateway-")
Headers = list[tuple[bytes, bytes]]


class OriginRefused(Forbidden):
    """The key is good, and does not work in this page, or outside of one."""

    code = "origin_not_allowed"


def is_known(origin: str) -> bool:
    """Whether any key lets pages of that origin in."""
    return bool(origin) and origins.allows(snapshot.current().origins, origin)


def check(origin: str, allowed: tuple[str, ...]) -> None:
    """Raises OriginRefused for a page that is not one of the key's, and for a call that comes from no page."""
    if not origin:
        raise OriginRefused("This key works in web pages only: the call has no Origin header.")
    if not origins.allows(allowed, origin):
        raise OriginRefused("This key may not be used by pages of this origin.")


def preflight(headers: Iterable[tuple[bytes, bytes]], origin: str) -> Headers:
    """The headers of the answer to a preflight. Raises OriginRefused where no key lets that origin in."""
    if not is_known(origin):
        raise OriginRefused("No key here may be used by pages of this origin.")
    asked = b",".join(value for name, value in headers if name == b"access-control-request-headers").decode("latin-1")
    names = [name.strip().lower() for name in asked.split(",", MAX_ASKED)[:MAX_ASKED]]
    allowed = [name for name in names if name in SENT or name.startswith(SENT_PREFIXES)]
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", METHODS),
        (b"access-control-allow-headers", ", ".join(allowed).encode("latin-1")),
        (b"access-control-max-age", MAX_AGE),
        (b"vary", b"Origin, Access-Control-Request-Headers"),
    ]


def readable(headers: Headers, origin: str) -> Headers:
    """What lets a page of that origin read the answer, and which of its headers."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _exposed(tuple([name for name, _ in headers]))),
        (b"vary", b"Origin"),
    ]


@lru_cache(maxsize=256)
def _exposed(names: tuple[bytes, ...]) -> bytes:
    """Answers have few different sets of headers."""
    found = [name.decode("ascii") for name in names]
    return ", ".join(name for name in found if name in READ or name.startswith(READ_PREFIXES)).encode("ascii")


def is_preflight(scope: dict[str, Any]) -> bool:
    return scope["method"] == "OPTIONS" and any(n == b"access-control-request-method" for n, _ in scope["headers"])
