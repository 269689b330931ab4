"""The secrets under which client keys are digested: those of the settings, or one of this process alone."""

import secrets
from collections.abc import Mapping
from functools import cache

from django.conf import settings


def ring() -> Mapping[str, bytes]:
    """Peppers by id, the one for writing first. Without a configured one nothing can be stored, and one is made up."""
    configured: Mapping[str, bytes] = settings.GATEWAY_KEY_PEPPERS
    return configured or _of_this_process()


def primary() -> tuple[str, bytes]:
    """Id and value of the pepper that new digests are made with."""
    return next(iter(ring().items()))


@cache
def _of_this_process() -> Mapping[str, bytes]:
    return {"process": secrets.token_bytes(32)}
