"""Web origins as a browser serialises them (https://www.rfc-editor.org/rfc/rfc6454#section-6.2), and patterns (pure).

`https://app.example.com` is one origin, `https://*.example.com` every one below that domain, at any depth. Plain http
is for the machine that the browser runs on; the pages of some shells and extensions have schemes of their own.
"""

import ipaddress
import re
from collections.abc import Collection

SHELLS = frozenset({"capacitor", "chrome-extension", "ionic", "moz-extension", "tauri"})
DEFAULT_PORTS = {"https": "443", "http": "80"}
MAX_CHARS = 300
FORM = re.compile(r"([a-z][a-z0-9.+-]*)://(\*\.)?(\[[0-9a-f:]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::([0-9]{1,5}))?")
EXAMPLE = "such as https://app.example.com or https://*.example.com"


def check(text: str) -> str:
    """The origin or pattern in the form in which it is compared; raises ValueError."""
    found = FORM.fullmatch(text.strip().lower()) if len(text) <= MAX_CHARS else None
    if found is None:
        raise ValueError(f"{text[:MAX_CHARS]!r} is no origin {EXAMPLE}, without a path")
    scheme, star, host, port = found.groups()
    if scheme not in ("https", "http", *SHELLS):
        raise ValueError(f"{text!r} has a scheme that no page has which may be let in: use https")
    if scheme == "http" and not _is_this_machine(host):
        raise ValueError(f"{text!r} is plain http, which anyone on the way can change: use https")
    if star and (scheme != "https" or "." not in host):
        raise ValueError(f"{text!r} is too wide: a pattern is https://*. and a domain with a dot in it")
    if port is not None and not 0 < int(port) <= 65_535:
        raise ValueError(f"{text!r} has a port that does not exist")
    end = "" if port in (None, DEFAULT_PORTS.get(scheme)) else f":{int(port)}"
    return f"{scheme}://{star or ''}{host}{end}"


def allows(patterns: Collection[str], origin: str) -> bool:
    """Whether the origin is one of those, or lies below one of their domains: a look-up for each label it has."""
    if origin in patterns:
        return True
    scheme, _, host = origin.partition("://")
    if scheme != "https" or FORM.fullmatch(origin) is None:
        return False
    labels = host.split(".")
    return any(f"https://*.{'.'.join(labels[start:])}" in patterns for start in range(1, len(labels) - 1))


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
