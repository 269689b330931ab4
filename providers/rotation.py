"""A new client key in an old one's place: what the old one may do, counted together with it."""

from collections.abc import Callable
from datetime import timedelta

import msgspec
from django.db import transaction
from django.utils import timezone

from providers import allowances
from providers.managers import KeyRefused
from providers.models import ClientKey, Issuer, settings_of


class Rotation(msgspec.Struct, frozen=True):
    """`token` is None where the key had a successor before: its token was shown then and is kept nowhere."""

    old: ClientKey
    successor: ClientKey
    token: str | None


def rotate(key_id: str, *, overlap: timedelta, compromised: bool = False, show: Callable[[Rotation], None]) -> Rotation:
    """Give the key a successor, and let it expire after the overlap; a second time only shortens what it has left.

    `show` hands the new token to its reader, before the transaction ends: whoever is killed on the way has either
    changed nothing, or shown the token. `compromised`: the old key is refused from now on, and its running requests
    are ended. Raises KeyRefused where there is no such key, or it is revoked.
    """
    with transaction.atomic():
        old = ClientKey.objects.select_for_update(of=("self",)).select_related("team").filter(pk=key_id).first()
        if old is None:
            raise KeyRefused(f"there is no client key with the id {key_id}")
        token = None
        if old.successor is None:
            _check(old, compromised=compromised)
            old.successor, token = _successor(old)
            _lead_issuers(old.id, old.successor)
        _end(old, overlap=timedelta() if compromised else overlap, compromised=compromised)
        old.save()
        done = Rotation(old, old.successor, token)
        show(done)
    return done


def _check(old: ClientKey, *, compromised: bool) -> None:
    ends_at = old.ends_at
    over = not old.enabled or (ends_at is not None and ends_at <= timezone.now())
    if over and not compromised:
        raise KeyRefused(f"the key {old.id} is revoked, disabled or expired: make a new one with create_client_key")


def _successor(old: ClientKey) -> tuple[ClientKey, str]:
    return ClientKey.objects.mint(
        old.name,
        aliases=old.aliases,
        expires_at=old.expires_at,
        kind=old.kind,
        **settings_of(old, allowances.KEY),
        team=old.team,
        principal=old.principal or old.id,
        source=old.source,
    )


def _lead_issuers(old_id: str, successor: ClientKey) -> None:
    """Tokens of the application's own users are worth the key that their issuer leads to: it must not end with it."""
    for issuer in Issuer.objects.select_for_update():
        profiles = {value: successor.id if key == old_id else key for value, key in issuer.profiles.items()}
        if issuer.key_id == old_id or profiles != issuer.profiles:
            issuer.key = successor if issuer.key_id == old_id else issuer.key
            issuer.profiles = profiles
            issuer.save()


def _end(old: ClientKey, *, overlap: timedelta, compromised: bool) -> None:
    now = timezone.now()
    old.expires_at = min(filter(None, (old.expires_at, now + overlap)))
    if compromised:
        old.enabled = False
        old.compromised_at = old.compromised_at or now
