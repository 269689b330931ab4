"""A request's place in a trace: https://www.w3.org/TR/trace-context/ (no OpenTelemetry needed)."""

import random
import re
import secrets
from collections.abc import Callable, Collection

import msgspec

HEADER = "traceparent"
# Version 00, and what a later one begins with; ids of nothing but zeros are none.
FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
LENGTH = 55  # of version 00
TAKE, SEND = "take", "send"


class Trace(msgspec.Struct, frozen=True):
    """`span` is the whole request's, `parent` the caller's or ""; `sends` is whether providers are told."""

    id: str
    span: str
    parent: str
    sampled: bool
    sends: bool

    def told(self, span: str) -> list[tuple[str, str]]:
        """The header for a call to a provider that is `span`."""
        return [(HEADER, f"00-{self.id}-{span}-{self.sampled:02x}")] if self.sends and span else []


def begin(header: Callable[[bytes], bytes], ways: Collection[str], ratio: float) -> Trace:
    """The caller's trace, where `ways` say that it is taken and there is one; else a new one, one of `ratio`."""
    span, sends = new_span(), SEND in ways
    if TAKE in ways:
        value = header(HEADER.encode()).decode("latin-1")
        match = FORM.match(value)
        if match is not None and (len(value) == LENGTH or value[:2] != "00"):
            return Trace(match[1], span, match[2], bool(int(match[3], 16) & 1), sends)
    sampled = ratio >= 1 or random.random() < ratio  # noqa: S311 - a sample, no secret
    return Trace(secrets.token_hex(16), span, "", sampled, sends)


def new_span() -> str:
    return secrets.token_hex(8)
