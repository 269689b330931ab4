"""Whether a request whose targets have all failed is tried again, and after how long (pure)."""

import random
from collections.abc import Callable

from gateway.errors import UpstreamError, UpstreamRefused, UpstreamTimeout

ATTEMPTS = 3  # of one request, in all
FIRST, LONGEST = 0.25, 2.0  # seconds: a pause is anything from 0 to twice the one before
LONGEST_WAIT = 10.0  # seconds that a provider may ask for


def pause(
    error: UpstreamError, attempts: int, *, retries_itself: bool, chance: Callable[[], float] = random.random
) -> float | None:
    """Seconds, None for no further attempt.

    Nothing is tried again that may have been done. What a 503 says of when to come again is waited for, but where the
    client does that by itself (`retries_itself`) it is told; and a rate limit is for the client to know of.

    Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if attempts >= ATTEMPTS or error.headers.get("x-should-retry") == "false":
        return None
    jitter = chance() * min(FIRST * 2.0 ** (attempts - 1), LONGEST)
    if not error.sent:
        # Whom it took all of the connect limit not to reach, it would take as long again.
        return None if isinstance(error, UpstreamTimeout) else jitter
    if not isinstance(error, UpstreamRefused) or error.upstream_status != 503:
        return None
    told = error.headers.get("retry-after", "")
    if not told.isdecimal() or int(told) > LONGEST_WAIT or retries_itself:
        return None
    return int(told) + jitter
