"""Provider dialects, registered by folder: every sibling module that defines a `Dialect` subclass with a `name`."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from providers.dialects.openai import OpenAI

Dialect = OpenAI


@cache
def registry() -> Mapping[str, OpenAI]:
    """One instance of each dialect by its name; dialects hold no state."""
    found: dict[str, OpenAI] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, OpenAI) and value.__module__.endswith(f".{module.name}"):
                found[value.name] = value()
    return found


def get(name: str) -> OpenAI:
    """The dialect of that name; raises KeyError where there is none."""
    return registry()[name]


def choices() -> list[tuple[str, str]]:
    return sorted((name, dialect.label) for name, dialect in registry().items())
