"""Addresses that send one wrong key after another: counted across processes, and refused without a look-up then.

Keys that this process knows already go on working from there: others may sit behind the same address.
"""

import time
from collections.abc import Callable
from typing import Any

import structlog
from django.db import DatabaseError
from django_ratelimit.core import get_usage

from gateway.errors import RateLimited

log = structlog.get_logger("gateway")

RATE = "100/15m"
MAX_ADDRESSES = 10_000


class WrongKeys:
    """`check` is for the event loop and reads memory only; `count` is for the SQL thread."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._until: dict[str, float] = {}

    def check(self, address: str) -> None:
        """Raises RateLimited where too many wrong keys have come from there."""
        wait = self._until.get(address, 0.0) - self._wall()
        if wait > 0:
            raise RateLimited("Too many wrong API keys have come from this address.", kind="requests", wait=wait)

    def count(self, address: str) -> None:
        """Count one wrong key; what cannot be counted is refused as a wrong key all the same."""
        try:
            usage = get_usage(None, group="wrong-key", key=constant(address), rate=RATE, increment=True)
        except DatabaseError as error:
            log.warning("wrong_key_not_counted", error=type(error).__name__)
            return
        if usage and usage["should_limit"]:
            if len(self._until) >= MAX_ADDRESSES:
                self._until.pop(next(iter(self._until)), None)
            self._until[address] = self._wall() + max(1, usage["time_left"])
            log.warning("too_many_wrong_keys", address=address)


def constant(value: str) -> Callable[[str, Any], str]:
    return lambda group, request: value or "unknown"
