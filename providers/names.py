"""The names that forms may refer to: of rows, and of what the environment declares."""

from contextlib import suppress

from providers import overlay
from providers.configfile import ConfigError
from providers.models import ModelAlias, Provider


def provider_names() -> list[str]:
    names = set(Provider.objects.values_list("name", flat=True))
    with suppress(ConfigError):  # which the pages of the providers say
        names.update(card.name for card in overlay.load().providers)
    return sorted(names)


def alias_names() -> list[str]:
    names = set(ModelAlias.objects.values_list("name", flat=True))
    with suppress(ConfigError):
        names.update(card.name for card in overlay.load().aliases)
    return sorted(names)
