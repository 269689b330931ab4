"""A provider's time limits as an operator writes them: `{"first_byte": 120, "total": 900}`, in seconds (pure)."""

import math

from msgspec.structs import fields

from providers.targets import Timeouts

NAMES = tuple(field.name for field in fields(Timeouts))
LONGEST = 3600.0


class TimeoutsError(ValueError):
    """The JSON is no set of time limits; the message names the key."""


def parse(data: object) -> Timeouts:
    """Time limits from JSON, defaults where it says nothing; raises TimeoutsError."""
    if not isinstance(data, dict):
        raise TimeoutsError("timeouts must be an object")
    for name, value in data.items():
        if name not in NAMES:
            raise TimeoutsError(f"timeouts.{name} is unknown: there are {', '.join(NAMES)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TimeoutsError(f"timeouts.{name} must be a number of seconds")
        if not 0 < value <= LONGEST:
            raise TimeoutsError(f"timeouts.{name} must be more than 0 and at most {LONGEST:.0f} seconds")
    return Timeouts(**{name: float(value) for name, value in data.items()})
