"""Upstream addresses: how a base URL is written, and which addresses may be called (pure).

Special-purpose ranges: https://www.iana.org/assignments/iana-ipv4-special-registry and its IPv6 sibling. They stand
here in full because what `ipaddress` calls private differs between the patch releases of Python.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

import msgspec

SETTING = "GATEWAY_PRIVATE_UPSTREAMS"
DEFAULT_PORTS = {"https": 443, "http": 80}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Instance metadata and credential services of the clouds: never an upstream, whatever the setting says.
NEVER = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "168.63.129.16",
        "100.100.100.200",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
NEVER_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.azure.internal", "instance-data", "instance-data.ec2.internal"}
)
SPECIAL_V4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
# Global unicast is 2000::/3; whatever lies outside of it is special, and so are these parts of it.
GLOBAL_V6 = IPv6Network("2000::/3")
SPECIAL_V6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
NAT64 = tuple(IPv6Network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48"))
COMPATIBLE = IPv6Network("::/96")
LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

# Names that stand for an own network, or for any address that their first labels spell.
OWN_SUFFIXES = ("localhost", "local", "internal", "lan", "home.arpa", "intranet", "corp", "home", "localdomain")
WILDCARD_SUFFIXES = ("nip.io", "sslip.io", "xip.io", "localtest.me", "lvh.me", "vcap.me", "lacolhost.com")

HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)", re.ASCII)
PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*", re.ASCII)
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


class AddressError(ValueError):
    """The address is not written as a base URL; the message is for the operator."""


class AddressRefused(AddressError):
    """The address is well written, but may not be called; the message names the setting."""


class Place(msgspec.Struct, frozen=True):
    """A base URL in its parts; `host` is lower case, without brackets; `literal` is set where it is an IP address."""

    scheme: str
    host: str
    port: int
    path: str
    literal: Address | None

    @property
    def authority(self) -> str:
        return f"[{self.host}]" if isinstance(self.literal, IPv6Address) else self.host


def normalise(base_url: str, *, bare_path: str = "") -> str:
    """The base URL as it is stored: lower-case host, no default port, no slash at the end, `/v1/v1` as `/v1`.

    `bare_path` ("/v1" for most dialects) is appended to an address without any path; other paths stay as they are.
    Raises AddressError with what to write instead.
    """
    place = _parse(base_url)
    path = place.path.rstrip("/")
    while path.endswith("/v1/v1"):
        path = path.removesuffix("/v1")
    for endpoint in ("/chat/completions", "/completions", "/embeddings", "/responses"):
        if path.endswith(endpoint):
            raise AddressError(f"This is the address of one call: leave out {endpoint}, the gateway appends it.")
    port = "" if DEFAULT_PORTS[place.scheme] == place.port else f":{place.port}"
    return f"{place.scheme}://{place.authority}{port}{path or bare_path}"


def origin(url: str) -> str:
    """`scheme://host:port`, the port always there: what a stored credential is bound to."""
    place = _parse(url)
    return f"{place.scheme}://{place.authority}:{place.port}"


def _parse(url: str) -> Place:
    url = url.strip()
    if not url:
        raise AddressError("Give the base URL, such as https://api.example.com/v1.")
    left = PLACEHOLDER.search(url)
    if left:
        raise AddressError(f"Fill in {left.group()}: put your own value in its place, or give it as an option.")
    if any(char <= " " or char in "\\<>\"'`{}|^\x7f" for char in url):
        raise AddressError("A base URL holds no spaces, quotes, braces or backslashes.")
    if "://" not in url:
        raise AddressError(f"Write the scheme too: https://{url.removeprefix('//')[:100]}")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressError("The host or the port of this address cannot be read.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise AddressRefused("The address must begin with https:// (or http://, where it is allowed).")
    _refuse_extras(url, parts)
    host, literal = _host(parts.hostname or "")
    if port is None:
        port = DEFAULT_PORTS[parts.scheme]
    if port == 0:
        raise AddressError("Port 0 is no port.")
    return Place(parts.scheme, host, port, parts.path, literal)


def _refuse_extras(url: str, parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise AddressError("No user name or password in the address: the key belongs into a credential.")
    if "?" in url or "#" in url:
        raise AddressError("No ? or # in the address: what a provider wants there is an option.")
    segments = parts.path.split("/")
    if not PATH.fullmatch(parts.path) or ".." in segments or "." in segments or "//" in parts.path.rstrip("/"):
        raise AddressError("The path of this address is not plain: no '..', no '//', no %, ASCII letters only.")


def _host(host: str) -> tuple[str, Address | None]:
    """The host for use in a URL, and the address that it is, if it is one."""
    if ":" in host:
        try:
            literal = IPv6Address(host)
        except ValueError:
            raise AddressError("The IPv6 address in the brackets cannot be read.") from None
        if literal.scope_id:
            raise AddressError("No zone (%) in the IPv6 address.")
        return str(literal), literal
    host = host.removesuffix(".")
    if not HOST.fullmatch(host) or len(host) > 253:
        raise AddressError("The host is not a plain name: ASCII letters, digits, dots and hyphens (xn-- for others).")
    if NUMBER.fullmatch(host.rpartition(".")[2]):
        try:
            return host, IPv4Address(host)
        except ValueError:
            # inet_aton takes 127.1, 0x7f.1, 017700000001 and 2130706433 for addresses; no name ends in a number.
            raise AddressRefused(f"{host} is an odd form of an IP address: write its four decimal numbers.") from None
    return host, None


class AddressPolicy:
    """Which addresses may be called.

    Public addresses over https, always. Plain http and every private or special address only where `allowed` (CIDRs,
    addresses, host:port) says so; loopback also in development; metadata services never. Raises ValueError for an
    entry that cannot be read.
    """

    def __init__(self, allowed: Sequence[str], development: bool) -> None:
        self.development = development
        self._networks: list[Network] = []
        self._endpoints: set[tuple[Address, int]] = set()
        self._names: set[tuple[str, int]] = set()
        for entry in allowed:
            self._admit(entry)

    def _admit(self, entry: str) -> None:
        try:
            self._networks.append(ip_network(entry))
        except ValueError:
            pass
        else:
            return
        try:
            if "/" in entry:
                raise AddressError("not a network")
            place = _parse(f"https://{entry}")
            # _parse fills in 443 where no port was given; an entry for a name must say which.
            if urlsplit(f"//{entry}").port is None:
                raise AddressError("no port")
        except ValueError:
            raise ValueError(f"{SETTING}: {entry!r} is neither a CIDR such as 10.0.0.0/8 nor a host:port") from None
        if place.literal is None:
            self._names.add((place.host, place.port))
        else:
            self._endpoints.add((place.literal, place.port))

    def check_url(self, url: str) -> None:
        """Refuse what can be known without a look-up; raises AddressError, or AddressRefused naming the setting."""
        place = _parse(url)
        if place.literal is not None:
            if place.literal in NEVER or NEVER & _embedded(place.literal):
                raise AddressRefused("This is the metadata service of a cloud: it is never called.")
            if not self.permits(str(place.literal), place.port, place.scheme):
                raise AddressRefused(self._advice(place))
            return
        if place.host in NEVER_NAMES:
            raise AddressRefused("This is the metadata service of a cloud: it is never called.")
        known_port = any(port == place.port for _, port in self._endpoints)
        if (place.host, place.port) in self._names or self._networks or known_port:
            return  # where the name leads is looked at when connecting
        if self.development and _below(place.host, ("localhost",)):
            return
        if place.scheme != "https" or _is_own(place.host):
            raise AddressRefused(self._advice(place))

    def permits(self, ip: str, port: int, scheme: str, host: str = "") -> bool:
        """Whether a connection to this resolved address may be opened; `host` is the name that was resolved, if any."""
        try:
            address = ip_address(ip.partition("%")[0])
        except ValueError:
            return False
        if address in NEVER or NEVER & _embedded(address):
            return False
        if (host.lower().removesuffix("."), port) in self._names or (address, port) in self._endpoints:
            return True
        if any(address in network for network in self._networks):
            return True
        if self.development and any(address in network for network in LOOPBACK):
            return True
        return scheme == "https" and is_public(address)

    def _advice(self, place: Place) -> str:
        what = "A private or special address" if place.scheme == "https" else "Plain http, without encryption,"
        return f"{what} is called only where {SETTING} allows it: add {place.authority}:{place.port} there."


def is_public(address: Address) -> bool:
    """Whether the address is global unicast and carries no other address inside."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in SPECIAL_V4)
    return address in GLOBAL_V6 and not any(address in network for network in SPECIAL_V6)


def _embedded(address: Address) -> frozenset[Address]:
    """The IPv4 addresses that an IPv6 address leads to: mapped, compatible, 6to4, Teredo, NAT64."""
    if isinstance(address, IPv4Address):
        return frozenset()
    inner: set[Address | None] = {address.ipv4_mapped, address.sixtofour, *(address.teredo or ())}
    if any(address in network for network in (*NAT64, COMPATIBLE)):
        inner.add(IPv4Address(int(address) & 0xFFFFFFFF))
    return frozenset(item for item in inner if item is not None)


def _below(host: str, suffixes: Sequence[str]) -> bool:
    return any(host == suffix or host.endswith(f".{suffix}") for suffix in suffixes)


def _is_own(host: str) -> bool:
    return "." not in host or _below(host, OWN_SUFFIXES) or _below(host, WILDCARD_SUFFIXES)
