"""A provider's token in place of another: tried out first, then the old one is used for nothing new."""

import msgspec
from django.db import transaction
from msgspec.structs import replace

from providers import cards, probing, references
from providers.cards import BadRow
from providers.models import Credential, Provider
from providers.probing import ProbeResult
from providers.vault import VaultError


class RotationRefused(Exception):
    """Nothing in use was changed; the message is for the operator and names no secret."""


class Replacement(msgspec.Struct, frozen=True):
    """`new` is what calls use from now on; `old` are switched off, and requests that hold them are answered still."""

    new: Credential
    old: tuple[Credential, ...]
    probe: ProbeResult


def rotate(provider: Provider, name: str, *, secret: str = "", reference: str = "", trust: bool = False) -> Replacement:
    """Store the new credential switched off, try it with a call that costs nothing, then change over in one step.

    With neither `secret` nor `reference`, what an earlier run has stored under the name is tried again. `trust` changes
    over whatever the provider says, where it has no such call. Raises RotationRefused.
    """
    new = _stored(provider, name, secret, reference)
    if new.enabled:
        others = provider.credentials.exclude(pk=new.pk).filter(enabled=True)
        if not others.exists():
            return Replacement(new, (), ProbeResult(True, 0, "It is in use already.", 0))
    result = _probe(provider, new)
    if not result.ok and not trust:
        said = " ".join(result.text.split())[:200]
        raise RotationRefused(f"{provider.name} does not take the credential {name}: status {result.status}. {said}")
    with transaction.atomic():
        old = tuple(provider.credentials.select_for_update().exclude(pk=new.pk).filter(enabled=True))
        new.enabled = True
        new.save()
        for row in old:
            row.enabled = False
            row.save()
    return Replacement(new, old, result)


def _stored(provider: Provider, name: str, secret: str, reference: str) -> Credential:
    row: Credential | None = provider.credentials.filter(name=name).first()
    if row is None and not secret and not reference:
        raise RotationRefused(f"{provider.name} has no credential {name}: give the new token")
    if row is not None and row.enabled and (secret or reference):
        raise RotationRefused(f"{provider.name} uses a credential {name} already: give the new one another name")
    row = row or Credential(provider=provider, name=name, enabled=False, source=provider.source)
    try:
        if secret:
            row.seal(secret)
        elif reference:
            references.check(reference)
            row.reference, row.sealed, row.hint = reference, "", ""
        row.provider = provider
        row.full_clean()
        row.save()
    except (VaultError, references.BadReference) as error:
        raise RotationRefused(f"the credential {name} {error}") from None
    return row


def _probe(provider: Provider, new: Credential) -> ProbeResult:
    try:
        card = cards.provider_card(provider, [cards.credential_card(new)], broken=False)
    except BadRow as error:
        raise RotationRefused(str(error)) from None
    return probing.probe(replace(card, enabled=True))
