"""What may be kept and given again: the alias's and the key's settings, the request itself, and its Cache-Control."""

import msgspec

from gateway.parsing.asks import Ask
from providers.targets import AliasCard, KeyCard

# What is done while answering, or looked up outside, is not done again by an answer that is given again.
ACTIVE = ("tools", "functions", "web_search_options")
EMPTY = frozenset({b"null", b"[]", b"{}", b"false"})


class Wish(msgspec.Struct, frozen=True):
    """Seconds. `fresh`: how old an answer may be; `stale`: how much older one that stands in for a failure."""

    fresh: float
    stale: float
    read: bool = True


def wish(ask: Ask, alias: AliasCard, key: KeyCard, cache_control: bytes) -> Wish | None:
    """None where the request is left out: it is then neither answered from what is kept nor kept itself."""
    card = alias.cache
    assert card is not None
    if key.cache == "off" or (card.opt_in and key.cache != "on") or not _may_be_kept(ask, card.temperature):
        return None
    fresh, stale = float(key.cache_ttl or card.ttl), float(card.stale)
    if not cache_control:
        return Wish(fresh, stale)
    said = directives(cache_control)
    if "no-store" in said:
        return None
    if "no-cache" in said:
        return Wish(fresh, 0.0, read=False)
    if "max-age" in said:
        # https://www.rfc-editor.org/rfc/rfc9111#section-5.2.1.1: older ones are not wanted, for a failure neither.
        age = said["max-age"]
        return Wish(min(fresh, float(age)), 0.0, read=age > 0)
    return Wish(fresh, stale)


def directives(value: bytes) -> dict[str, int]:
    """The directives of a request's Cache-Control, with their number of seconds or 0."""
    found: dict[str, int] = {}
    for part in value.decode("latin-1").lower().split(","):
        name, _, number = part.strip().partition("=")
        number = number.strip('" ')
        found[name.strip()] = int(number) if number.isdecimal() and len(number) < 12 else 0
    return found


def _may_be_kept(ask: Ask, temperature: float) -> bool:
    fields = ask.fields
    if ask.endpoint == "embeddings":
        return True
    if ask.choices > 1 or bytes(fields.get("store", b"")) == b"true":
        return False
    if any(name in fields and bytes(fields[name]) not in EMPTY for name in ACTIVE):
        return False
    given = _number(fields.get("temperature"))
    return given is not None and given <= temperature


def _number(raw: msgspec.Raw | None) -> float | None:
    """A temperature; 1 where none is given, which is what providers take; None for what is no number."""
    if raw is None:
        return 1.0
    try:
        value: float | None = msgspec.json.decode(raw, type=float | None)
    except msgspec.MsgspecError:
        return None
    return 1.0 if value is None else value
