"""Spans of time as operators write them: a number and a unit, such as 90s, 12h or 30d (pure)."""

import re
from datetime import timedelta

SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse(text: str) -> timedelta:
    """Raises ValueError where it is no span."""
    match = SPAN.match(text)
    if match is None:
        raise ValueError(f"{text} is no span of time: write a number and one of s, m, h, d, w, such as 30d.")
    return timedelta(**{UNITS[match[2]]: int(match[1])})
