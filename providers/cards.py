"""Rows of the database as the frozen cards of the catalog; a row that cannot become one raises BadRow."""

from collections.abc import Iterable

from providers import allowances, dialects, keys, quirks, references, timeouts, vault
from providers.addresses import AddressError
from providers.issuers import IssuerCard, faults
from providers.models import ClientKey, Credential, Issuer, ModelAlias, Provider, Route, Team, settings_of
from providers.targets import AliasCard, CredentialCard, KeyCard, ProviderCard, RouteCard, TeamCard

# Whatever a bad value in a column can raise. The messages of our own errors name no secret.
FAULTS = (ValueError, TypeError, AttributeError, vault.VaultError, references.BadReference)


class BadRow(Exception):
    """The row says something that cannot be served; the message names the row and no secret."""


def provider_card(row: Provider, credentials: Iterable[CredentialCard], *, broken: bool) -> ProviderCard:
    """`broken`: it has credentials, but none that can be used; without them it would only be refused."""
    if row.dialect not in dialects.registry():
        raise BadRow(f"provider {row.name}: there is no dialect {row.dialect!r}")
    if not isinstance(row.options, dict):
        raise BadRow(f"provider {row.name}: options must be an object")
    try:
        return ProviderCard(
            id=row.id,
            name=row.name,
            dialect=row.dialect,
            base_url=row.base_url.rstrip("/"),
            options=row.options,
            quirks=quirks.parse(row.quirks),
            timeouts=timeouts.parse(row.timeouts),
            credentials=tuple(credentials),
            enabled=row.enabled and not broken,
        )
    except FAULTS as error:
        raise BadRow(f"provider {row.name}: {error}") from None


def credential_card(row: Credential) -> CredentialCard:
    try:
        return CredentialCard(row.id, row.name, row.unseal())
    except AddressError:
        raise BadRow(f"credential {row}: the provider's address is not a base URL") from None
    except FAULTS as error:
        raise BadRow(f"credential {row}: {error}") from None


def alias_card(row: ModelAlias, routes: Iterable[Route]) -> AliasCard:
    try:
        if row.strategy not in (ModelAlias.ORDERED, ModelAlias.WEIGHTED):
            raise ValueError(f"there is no strategy {row.strategy!r}")
        values = allowances.checked(allowances.ALIAS, settings_of(row, allowances.ALIAS))
        return AliasCard(
            id=row.id,
            name=row.name,
            routes=tuple(RouteCard(route.provider_id, route.model, max(1, route.weight)) for route in routes),
            strategy=row.strategy,
            retry_after_timeout=row.retry_after_timeout,
            early_200=row.early_200,
            created=int(row.created_at.timestamp()),
            limits=allowances.limits_of(values),
            cache=allowances.cache_of(values),
            adapters=tuple(values["adapters"]),
            capture=values["capture"],
        )
    except FAULTS as error:
        raise BadRow(f"alias {row.name}: {error}") from None


def key_card(row: ClientKey) -> KeyCard:
    if not isinstance(row.aliases, list) or not all(isinstance(name, str) for name in row.aliases):
        raise BadRow(f"client key {row.id}: aliases must be a list of names")
    if len(row.digest) != keys.DIGEST_BYTES:
        raise BadRow(f"client key {row.id}: its digest has not {keys.DIGEST_BYTES} bytes")
    ends_at = row.ends_at
    card = KeyCard(
        id=row.id,
        name=row.name,
        pepper_id=row.pepper_id,
        digest=bytes(row.digest),
        aliases=tuple(row.aliases),
        enabled=row.enabled and row.compromised_at is None,
        expires_at=ends_at.timestamp() if ends_at else None,
        kind=row.kind,
        principal=row.principal,
        repepper=row.pepper_deadline is not None,
    )
    try:
        values = allowances.checked(allowances.KEY, settings_of(row, allowances.KEY))
        for name, wrong in allowances.faults_of_kind(row.kind, row.aliases, values).items():
            raise ValueError(f"{name} {wrong}")
        return allowances.allow(card, values, team_card(row.team) if row.team else None)
    except FAULTS as error:
        raise BadRow(f"client key {row.id}: {error}") from None


def team_card(row: Team) -> TeamCard:
    try:
        values = allowances.checked(allowances.TEAM, settings_of(row, allowances.TEAM))
    except FAULTS as error:
        raise BadRow(f"team {row.name}: {error}") from None
    return allowances.team_card(row.id, row.name, values, enabled=row.enabled)


def issuer_card(row: Issuer) -> IssuerCard:
    for name, wrong in faults(vars(row)).items():
        raise BadRow(f"issuer {row.name}: {name}: {wrong}")
    return IssuerCard(
        id=row.id,
        name=row.name,
        issuer=row.issuer,
        audience=row.audience,
        jwks_url=row.jwks_url,
        key=row.key_id or "",
        algorithms=tuple(row.algorithms),
        leeway=float(row.leeway),
        end_user_claim=row.end_user_claim,
        tag_claims=row.tag_claims,
        profile_claim=row.profile_claim,
        profiles=row.profiles,
    )
