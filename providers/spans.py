"""Spans of time as operators write them: a number and a unit, such as 90s, 12h or 30d (pure)."""

import re
from datetime import timedelta

SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
LONGEST = timedelta(days=36_525)  # beyond it a time from now on may have no date
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse(text: str) -> timedelta:
    """Raises ValueError where it is no span."""
    match = SPAN.match(text)
    if match is None:
        raise ValueError(f"{text} is no span of time: write a number and one of s, m, h, d, w, such as 30d.")
    span = timedelta(**{UNITS[match[2]]: int(match[1])})
    if span > LONGEST:
        raise ValueError(f"{text} is longer than {LONGEST.days} days, a hundred years.")
    return span
