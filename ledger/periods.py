"""Periods as operators write them on a command line (pure): days, in UTC."""

import re
from datetime import UTC, datetime, timedelta

AGE = re.compile(r"([0-9]{1,6})([dh])")
UNITS = {"d": "days", "h": "hours"}


def moment(text: str, *, now: datetime) -> datetime:
    """`2026-11-23`, `2026-11-23T10:00`, or an age such as `30d` or `12h`. Raises ValueError."""
    age = AGE.fullmatch(text)
    if age is not None:
        try:
            return now - timedelta(**{UNITS[age[2]]: int(age[1])})
        except OverflowError:
            raise ValueError(f"{text} is before the calendar begins") from None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is no day such as 2026-11-23, no time and no age such as 30d") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
