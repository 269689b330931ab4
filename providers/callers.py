"""Where a call comes from: the address that the nearest proxy of our own saw, never one that the caller wrote."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache


def address(peer: str, forwarded: Sequence[str], hops: int) -> str:
    """The caller's address: the entry that the outermost of `hops` own proxies appended to X-Forwarded-For.

    `forwarded` are that header's values in their order. Each proxy appends the address that it sees, so what stands
    further left than `hops` from the right is the caller's own claim. `peer` is who has connected to us; it holds where
    there are fewer entries, and where the entry is no address.
    """
    if hops < 1:
        return peer
    entries = [entry.strip() for value in forwarded for entry in value.split(",")]
    if len(entries) < hops:
        return peer
    return _bare(entries[-hops]) or peer


@lru_cache(maxsize=10_000)
def network(caller: str) -> str:
    """What limits are counted under: an IPv4 address, or the /64 that one IPv6 customer has."""
    try:
        parsed = ipaddress.ip_address(caller)
    except ValueError:
        return caller
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return caller


@lru_cache(maxsize=10_000)
def is_within(caller: str, cidrs: tuple[str, ...]) -> bool:
    """Whether the caller's address lies in one of the networks; what is no address lies in none."""
    try:
        parsed = ipaddress.ip_address(caller)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in ipaddress.ip_network(cidr, strict=False) for cidr in cidrs)


def _bare(entry: str) -> str:
    """The address without its port or brackets; "" for what is none: `192.0.2.1:80`, `[2001:db8::1]:443`."""
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    try:
        return str(ipaddress.ip_address(entry))
    except ValueError:
        return ""
