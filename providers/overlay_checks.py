"""System checks of the configuration outside the database: what is wrong is said before the first request."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks

from providers import keys, newkeys, overlay
from providers.configfile import ConfigError


@checks.register("providers")
def check_overlay(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """providers.E001 for what cannot be read, E002 (W002 in development) for a guessable key, W003 for a lost part.

    One provider without its key does not keep the others from serving.
    """
    try:
        found = overlay.load()
    except ConfigError as error:
        return [checks.Error(problem, id="providers.E001") for problem in error.problems]
    messages: list[checks.CheckMessage] = []
    for problem in found.problems:
        text = f"{problem.place} {problem.wrong}."
        if not problem.weak:
            messages.append(checks.Warning(text, id="providers.W003"))
            continue
        hint = f"Take one that was made just now: {keys.mint().token}"
        if settings.DEVELOPMENT:
            messages.append(checks.Warning(text, hint=hint, id="providers.W002"))
        else:
            messages.append(checks.Error(text, hint=hint, id="providers.E002"))
    return messages


@checks.register("providers")
def check_defaults(**kwargs: Any) -> Sequence[checks.CheckMessage]:
    """providers.E003: what new keys are to have is nothing that a key can have."""
    try:
        newkeys.defaults()
    except ValueError as error:
        hint = "Write a whole number, a budget such as 50/month or none, and a span such as 365d or never."
        return [checks.Error(str(error), hint=hint, id="providers.E003")]
    return []
