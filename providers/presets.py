"""Provider presets, read from presets.toml: what a new provider's row is filled with (pure)."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from providers.addresses import PLACEHOLDER

FILE = Path(__file__).with_name("presets.toml")


class Preset(msgspec.Struct, frozen=True):
    """One upstream's usual settings. `key_env` is the variable that its own documents use for the key, "" for none."""

    name: str
    label: str
    dialect: str
    base_url: str
    docs: str
    note: str = ""
    key_env: str = ""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    quirks: Mapping[str, Any] = msgspec.field(default_factory=dict)
    timeouts: Mapping[str, float] = msgspec.field(default_factory=dict)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that stand in braces in the base URL, in order."""
        return tuple(PLACEHOLDER.findall(self.base_url))


@cache
def presets() -> Mapping[str, Preset]:
    """All presets by name, in the file's order."""
    # Forms and the configuration file ask for presets; requests do not.
    import tomllib

    with FILE.open("rb") as file:
        found = tomllib.load(file)
    return {name: Preset(name=name, **values) for name, values in found.items()}


def fill(base_url: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The URL with its placeholders filled from the options of their names, and the options that are left.

    A placeholder without an option stays: addresses.normalise then names it.
    """
    left = dict(options)
    for name in PLACEHOLDER.findall(base_url):
        value = options.get(name)
        if isinstance(value, str | int) and str(value):
            base_url = base_url.replace(f"{{{name}}}", str(value))
            left.pop(name, None)
    return base_url, left
