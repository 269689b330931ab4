"""How the names of aliases and adapters are written: exact, or a pattern with one `*` at its end (pure)."""

import re

MAX_CHARS = 200
MAX_PATTERNS = 100
# `org/adapter/3`, and Predibase's `repo/1@7`. An adapter may end up in a path: no part of it begins with a dot.
PART = r"[A-Za-z0-9_][A-Za-z0-9._@-]*"
ADAPTER = re.compile(rf"{PART}(/{PART})*\Z")
ADAPTER_BEGINNING = re.compile(rf"({PART}/)*({PART})?\Z")


def check(name: object) -> None:
    """Raises ValueError with what is wrong with a name or pattern."""
    if not isinstance(name, str) or not name:
        raise ValueError("an alias is a text such as fast, mistral/* or *")
    if len(name) > MAX_CHARS:
        raise ValueError(f"an alias has at most {MAX_CHARS} characters")
    if not name.isprintable() or name != name.strip():
        raise ValueError(f"{name!r} holds control characters, or spaces at an end")
    if "*" in name[:-1]:
        raise ValueError(f"{name!r} has a * before its end: only the last character may be one")


def check_all(names: object) -> None:
    """The same for a key's list of patterns."""
    if not isinstance(names, list):
        raise ValueError('the aliases are a list such as ["fast", "mistral/*"]')
    for name in names:
        check(name)


def is_adapter(name: str) -> bool:
    """Whether a client may ask for an adapter of that name at all."""
    return len(name) <= MAX_CHARS and ADAPTER.match(name) is not None


def adapters(value: object) -> list[str]:
    """An alias's patterns of adapters, each once; raises ValueError with what is wrong."""
    if not isinstance(value, list) or len(value) > MAX_PATTERNS or not all(isinstance(name, str) for name in value):
        raise ValueError(f"must be a list of at most {MAX_PATTERNS} names and patterns such as tickets/3 or support/*")
    for name in value:
        beginning = name.removesuffix("*")
        good = ADAPTER_BEGINNING.match(beginning) if beginning != name else ADAPTER.match(name)
        if not good or len(name) > MAX_CHARS:
            raise ValueError(f"{name!r} is no name or pattern of adapters such as tickets/3 or support/*")
    return list(dict.fromkeys(value))
