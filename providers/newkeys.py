"""What a new key has where nobody says otherwise: GATEWAY_DEFAULT_RPM, GATEWAY_DEFAULT_BUDGET, GATEWAY_DEFAULT_EXPIRES.

A key without a ceiling is worth as much to whoever finds it as the provider's own token.
"""

from datetime import datetime, timedelta

import msgspec
from django.conf import settings
from django.utils import timezone

from providers import allowances, spans
from providers.models import ClientKey

NONE, NEVER = "none", "never"


class Defaults(msgspec.Struct, frozen=True):
    rpm: int
    budget: str
    lifetime: timedelta | None

    def ends_at(self) -> datetime | None:
        return None if self.lifetime is None else timezone.now() + self.lifetime


def defaults() -> Defaults:
    """Raises ValueError, naming the variable, where one says nothing that a key can have."""
    for name, read in READERS:
        try:
            read()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return Defaults(_rpm(), _budget(), _lifetime())


def _rpm() -> int:
    return allowances.whole(settings.GATEWAY_DEFAULT_RPM)


def _budget() -> str:
    return budget(settings.GATEWAY_DEFAULT_BUDGET)


def _lifetime() -> timedelta | None:
    return lifetime(settings.GATEWAY_DEFAULT_EXPIRES)


def budget(text: str) -> str:
    """`none` is no budget."""
    return "" if text == NONE else allowances.budget(text)


def lifetime(text: str) -> timedelta | None:
    """`never` is no end."""
    return None if text == NEVER else spans.parse(text)


def described(row: ClientKey) -> str:
    """What bounds a key that was just made, for whoever made it."""
    rate = f"{row.rpm} requests a minute" if row.rpm else "any number of requests a minute"
    cost = f"cost {row.budget} (US dollars)" if row.budget else "cost any amount"
    ends = f"ends on {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at else "does not expire"
    return f"It may make {rate} and {cost}, and {ends}."


READERS = (
    ("GATEWAY_DEFAULT_RPM", _rpm),
    ("GATEWAY_DEFAULT_BUDGET", _budget),
    ("GATEWAY_DEFAULT_EXPIRES", _lifetime),
)
