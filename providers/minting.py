"""Making ephemeral tokens: what a key may put into one, and what is wrong with what was asked for (pure)."""

import secrets
from collections.abc import Mapping
from typing import Annotated

import msgspec

from providers import aliases as alias_names
from providers import allowances, ephemeral, origins
from providers.ids import base62
from providers.targets import KeyCard

MAX_SECONDS = 3600
DEFAULT_SECONDS = 600
END_USER_CHARS = 128
MAX_NAMES = 50
Whole = Annotated[int, msgspec.Meta(ge=1, le=allowances.MAX_WHOLE)]
Names = Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=200)]], msgspec.Meta(max_length=MAX_NAMES)]


class MintRefused(ValueError):
    """The token cannot be made so; `field` is what is to be changed, "" where none would help."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a token is to be. What is not given is as the minting key has it."""

    end_user: Annotated[str, msgspec.Meta(min_length=1, max_length=END_USER_CHARS)]
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=MAX_SECONDS)] = DEFAULT_SECONDS  # seconds
    origin: str | None = None
    aliases: Names | None = None
    endpoints: Names | None = None
    max_tokens: Whole | None = None
    rpm: Whole | None = None
    tpm: Whole | None = None
    concurrency: Whole | None = None


class Minted(msgspec.Struct, frozen=True):
    """`token` is shown once; `id` names it in answers and logs."""

    id: str
    token: str
    claims: ephemeral.Claims


def mint(minter: KeyCard, wish: Wish, peppers: Mapping[str, bytes], now: float) -> Minted:
    """A token no wider than the key. `peppers` are those that all processes share, the one for writing first."""
    if minter.kind != allowances.SECRET:
        raise MintRefused("", "Only a secret key can make tokens.")
    if not peppers:
        raise MintRefused("", "Tokens need GATEWAY_KEY_PEPPERS, which all processes share; it is not set here.")
    if not wish.end_user.isprintable() or wish.end_user != wish.end_user.strip():
        raise MintRefused("end_user", "`end_user` holds control characters, or spaces at an end.")
    expires_at = int(now) + wish.expires_in
    if minter.expires_at is not None:
        expires_at = min(expires_at, int(minter.expires_at))
    claims = ephemeral.Claims(
        id=base62(secrets.randbelow(62**12), 12),
        key=minter.id,
        end_user=wish.end_user,
        issued_at=int(now),
        expires_at=expires_at,
        origin=_origin(minter, wish.origin),
        aliases=_aliases(minter, wish.aliases),
        endpoints=_endpoints(minter, wish.endpoints),
        max_tokens=_within("max_tokens", wish.max_tokens, minter.max_tokens or 0),
        **{name: _limit(minter, name, getattr(wish, name)) for name in ("rpm", "tpm", "concurrency")},
    )
    return Minted(claims.id, ephemeral.seal(*next(iter(peppers.items())), claims), claims)


def _origin(minter: KeyCard, given: str | None) -> str:
    if given is None:
        return ""
    try:
        origin = origins.check(given)
    except ValueError as error:
        raise MintRefused("origin", f"`origin`: {error}.") from None
    if "*" in origin or not origins.allows(minter.origins, origin):
        raise MintRefused(
            "origin", f"`origin`: {origin} is not among the web origins of this key; the gateway's operator sets them."
        )
    return origin


def _aliases(minter: KeyCard, given: list[str] | None) -> tuple[str, ...] | None:
    for name in given or ():
        try:
            alias_names.check(name)
        except ValueError as error:
            raise MintRefused("aliases", f"`aliases`: {error}.") from None
        if ephemeral.both((name,), minter.aliases) != (name,):
            raise MintRefused("aliases", f"`aliases`: this key may not use {name} itself.")
    return None if given is None else tuple(given)


def _endpoints(minter: KeyCard, given: list[str] | None) -> tuple[str, ...] | None:
    for name in given or ():
        if name not in allowances.ANSWERING:
            raise MintRefused("endpoints", f"`endpoints`: {name} is none of {', '.join(sorted(allowances.ANSWERING))}.")
        if minter.endpoints and name not in minter.endpoints:
            raise MintRefused("endpoints", f"`endpoints`: this key may not use {name} itself.")
    return None if given is None else tuple(given)


def _limit(minter: KeyCard, name: str, given: int | None) -> int:
    for limits in (minter.end_user_limits, minter.limits):
        _within(name, given, getattr(limits, name))
    return given or 0


def _within(name: str, given: int | None, most: int) -> int | None:
    """`most` 0 is no bound."""
    if given is not None and most and given > most:
        raise MintRefused(name, f"`{name}` may be at most {most} with this key.")
    return given
