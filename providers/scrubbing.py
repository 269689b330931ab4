"""Secrets out of whatever is about to be printed: one function over the finished line, so that no call site counts."""

import json
import re
from collections.abc import Callable, Iterable

from ahocorasick_rs import BytesAhoCorasick

# Shorter values are words: to hide them would tear holes into lines that hold no secret.
SHORTEST = 8
HIDDEN = b"***"

SEPARATOR = rb"""[\\"']*\s*[:=,]\s*(?:b(?=[\\"']))?[\\"']*"""
VALUE = rb"""(?:(?:bearer|basic)\s+)?[^\s"'\\,;&)}\]]+"""
HEADER = rb"(?:proxy-)?authorization|(?:x-(?:goog-)?)?api[-_]?key|secret[-_]?key|x-amz-security-token|password"
VENDORS = rb"sk[-_]|gsk_|hf_|r8_|xai-|pplx-|nvapi-"

# What stands in a line, in lower case, before its pattern is tried: most lines hold none of it.
RULES: tuple[tuple[tuple[bytes, ...], "re.Pattern[bytes]", bytes], ...] = (
    # Of our own keys the id stays: it is public, and says whose key it was.
    ((b"k-",), re.compile(rb"([spe]k-gw-[A-Za-z0-9]{0,10})[A-Za-z0-9_-]*"), rb"\1***"),
    (
        (b"k-", b"k_", b"hf_", b"r8_", b"xai-", b"pplx-", b"nvapi-"),
        re.compile(rb"(?<![A-Za-z0-9])(" + VENDORS + rb")(?!gw-)[A-Za-z0-9_-]{12,}"),
        rb"\1***",
    ),
    ((b"akia", b"asia", b"aiza"), re.compile(rb"(?<![A-Za-z0-9])(A[KS]IA|AIza)[A-Za-z0-9_-]{16,}"), rb"\1***"),
    ((b"eyj",), re.compile(rb"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"), HIDDEN),
    ((b"bearer",), re.compile(rb"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), rb"\1***"),
    (
        (b"authorization", b"api", b"secret", b"security-t", b"password"),
        re.compile(rb"(?i)(\b(?:" + HEADER + rb")" + SEPARATOR + rb")" + VALUE),
        rb"\1***",
    ),
    ((b"cookie",), re.compile(rb"(?i)(\b(?:set-)?cookie" + SEPARATOR + rb")[^\"'\\\r\n]+"), rb"\1***"),
    ((b"@",), re.compile(rb"""(://)[^\s/@"'\\]+(?=@)"""), rb"\1***"),
    (
        (b"=",),
        re.compile(rb"""(?i)([?&](?:[a-z_-]*key|[a-z_-]*token|sig|signature|x-amz-signature)=)[^\s&"'\\]+"""),
        rb"\1***",
    ),
)
# The line of every request is looked through: one pass finds any of many, where one `in` for each would cost a pass.
MARKS = BytesAhoCorasick({mark for marks, _, _ in RULES for mark in marks})


class Scrubber:
    """`known` gives secrets that are in memory now, in any form; it is asked for each line, and must be cheap.

    It gives the same tuple for as long as nothing in it has changed.
    """

    def __init__(self, known: Callable[[], tuple[bytes, ...]] = tuple) -> None:
        self.known = known
        self._looked_for: tuple[tuple[bytes, ...], BytesAhoCorasick] = ((), BytesAhoCorasick(()))

    def __call__(self, line: bytes) -> bytes:
        """The line without secrets; JSON stays JSON, since what is cut out holds no quote."""
        secrets = self.known()
        looked_for = self._looked_for
        if secrets is not looked_for[0]:
            looked_for = self._looked_for = (secrets, BytesAhoCorasick(secrets))
        if looked_for[1].find_matches_as_indexes(line):
            for secret in secrets:
                line = line.replace(secret, HIDDEN)
        lowered = line.lower()
        if not MARKS.find_matches_as_indexes(lowered):
            return line
        for marks, pattern, hidden in RULES:
            if any(mark in lowered for mark in marks):
                line = pattern.sub(hidden, line)
        return line


def forms(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Each secret as it may stand in a line, as text and inside JSON; the longest first, where one holds another."""
    found = {
        form.encode("utf-8", "surrogatepass")
        for secret in secrets
        if len(secret) >= SHORTEST
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    }
    return tuple(sorted(found, key=len, reverse=True))
