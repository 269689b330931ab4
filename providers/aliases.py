"""How the names of aliases are written: exact, or a pattern with one `*` at its end (pure)."""

MAX_CHARS = 200


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
