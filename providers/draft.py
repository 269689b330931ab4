"""A provider's settings on their way in, from a form or a file: filled, normalised and checked as one (pure)."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from providers import dialects, quirks, timeouts
from providers.addresses import AddressError, AddressPolicy, normalise
from providers.dialects import Dialect
from providers.presets import fill

OPTION_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ProviderValues(msgspec.Struct, frozen=True):
    """What a provider's row holds beside its name; the mappings are plain JSON."""

    dialect: str = "openai"
    base_url: str = ""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    quirks: Mapping[str, Any] = msgspec.field(default_factory=dict)
    timeouts: Mapping[str, Any] = msgspec.field(default_factory=dict)


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with one field, in words for the operator."""

    field: str
    message: str


def settled(values: ProviderValues, policy: AddressPolicy) -> tuple[ProviderValues, list[Fault]]:
    """The values as they are stored, and what is wrong with them; with faults, they are not to be stored."""
    faults: list[Fault] = []
    base_url, options = values.base_url.strip(), dict(values.options)
    dialect = dialects.registry().get(values.dialect)
    if dialect is None:
        known = ", ".join(sorted(dialects.registry()))
        faults.append(Fault("dialect", f"there is no dialect {values.dialect!r}; known are {known}"))
    elif dialect.needs_base_url:
        base_url, options = fill(base_url, options)
        try:
            base_url = normalise(base_url, bare_path=dialect.bare_path)
            policy.check_url(base_url)
        except AddressError as error:
            faults.append(Fault("base_url", str(error)))
    elif base_url:
        faults.append(Fault("base_url", f"the dialect {values.dialect} calls no address: leave it empty"))
    if dialect is not None:
        faults.extend(_option_faults(options, dialect))
    for name, parse in (("quirks", quirks.parse), ("timeouts", timeouts.parse)):
        try:
            parse(getattr(values, name))
        except ValueError as error:
            faults.append(Fault(name, str(error)))
    return replace(values, base_url=base_url, options=options), faults


FLAGS = frozenset({"include_usage", "drain", "x_api_key"})
PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")


def _option_faults(options: Mapping[str, Any], dialect: Dialect) -> list[Fault]:
    faults: list[Fault] = []
    known = dialect.options
    for name, value in options.items():
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            faults.append(Fault("options", f"{name} is no option of this dialect; known are {names}"))
        elif name in FLAGS:
            if not isinstance(value, bool):
                faults.append(Fault("options", f"{name} must be true or false"))
        elif name == "messages":
            if value is not True and value is not False and not (isinstance(value, str) and PATH.fullmatch(value)):
                faults.append(Fault("options", f"{name} must be true, false, or a path such as /anthropic/v1"))
        elif not isinstance(value, str) or not OPTION_TEXT.fullmatch(value):
            faults.append(Fault("options", f"{name} must be a text of letters, digits, dots and hyphens, in quotes"))
        elif name in dialect.choices and value not in dialect.choices[name]:
            faults.append(Fault("options", f"{name} must be one of {', '.join(dialect.choices[name])}"))
    return faults
