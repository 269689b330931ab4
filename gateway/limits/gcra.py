"""The generic cell rate algorithm: a bucket is one number, the time at which it will be full again (pure).

https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm. That time is the "theoretical arrival time", `tat`: each unit
taken moves it `interval` seconds on, and it may lie at most `tolerance` seconds ahead. Times are seconds of one clock.
"""

import msgspec

# Seconds: what adding up floats may miss by, and far less than any interval.
EPSILON = 1e-6


class Rate(msgspec.Struct, frozen=True):
    """`limit` units a minute, of which `burst` may come at once."""

    limit: int
    burst: float
    interval: float  # seconds a unit
    tolerance: float  # seconds that a full burst takes to come back


def rate(limit: int, burst: float) -> Rate:
    interval = 60.0 / limit
    return Rate(limit, burst, interval, burst * interval)


def wait(of: Rate, tat: float, now: float, cost: float) -> float:
    """Seconds until `cost` units may pass; 0.0 where they may now. A cost over the burst waits for a full bucket."""
    seconds = max(tat, now) - now + min(cost, of.burst) * of.interval - of.tolerance
    return seconds if seconds > EPSILON else 0.0


def charged(of: Rate, tat: float, now: float, cost: float) -> float:
    """The new `tat`."""
    return max(tat, now) + cost * of.interval


def room(of: Rate, tat: float, now: float) -> float:
    """Units that may pass at once now; negative where a bucket was overdrawn."""
    return (of.tolerance + EPSILON - max(tat - now, 0.0)) / of.interval


def refundable(of: Rate, until: float, now: float, amount: float) -> float:
    """How much of `amount` units can still be given back, of a charge that moved `tat` to `until`.

    What has come back by the passing of time since is not given a second time: whoever charges much, waits and takes it
    back would have twice the rate.
    """
    return min(amount, max(until - now, 0.0) / of.interval)
