"""Identifiers made by us: no hot table hangs on a database sequence."""

import os
import time

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def uuid7() -> str:
    """A UUID of version 7 as 32 hex digits (RFC 9562 section 5.7): sorts by time of creation, to the millisecond."""
    tail = int.from_bytes(os.urandom(10), "big")
    value = (time.time_ns() // 1_000_000) << 80 | tail
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return f"{value:032x}"


def base62(value: int, width: int) -> str:
    """`value` in base 62, left-padded with zeros to `width` characters."""
    digits = ""
    while value:
        value, rest = divmod(value, 62)
        digits = ALPHABET[rest] + digits
    return digits.rjust(width, "0")
