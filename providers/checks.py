"""What is wrong with the rows and their secrets, said before the first request (`manage.py check --database default`).

The secrets themselves are checked by proxysite/checks.py, the configuration file by overlay_checks.py.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004
from django.db import DatabaseError

from providers import repepper, vault
from providers.addresses import AddressError
from providers.models import Credential, ModelAlias

Row = TypeVar("Row")


@register(Tags.database)
def check_credentials(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.E002, E003 and W001: credentials that the configured encryption keys do not open."""
    unknown: dict[str, list[str]] = defaultdict(list)
    damaged: dict[str, list[str]] = defaultdict(list)
    opened: Counter[str] = Counter()
    rows = Credential.objects.filter(reference="").exclude(sealed="").select_related("provider")
    for row in _read(rows, databases):
        try:
            row.unseal()
            opened[vault.key_id_of(row.sealed)] += 1
        except vault.UnknownKeyId as error:
            unknown[error.key_id].append(str(row))
        except vault.DoesNotDecrypt as error:
            damaged[error.key_id].append(str(row))
        except (vault.NotSealed, AddressError):
            damaged[""].append(str(row))
    return [
        *(_unknown_encryption_key(key_id, names) for key_id, names in unknown.items()),
        *(_closed(key_id, names, wrong_key=bool(key_id) and not opened[key_id]) for key_id, names in damaged.items()),
    ]


@register(Tags.database)
def check_peppers(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.E004: client keys that no request can use, because their pepper is not configured."""
    used = repepper.live().order_by().values_list("pepper_id", flat=True).distinct()
    return [
        Error(
            f"There are client keys under the pepper {pepper_id!r}, which is not in GATEWAY_KEY_PEPPERS.",
            hint="Add the old pepper behind the first one, or revoke these keys and issue new ones.",
            id="gateway.E004",
        )
        for pepper_id in sorted(_read(used, databases))
        if pepper_id not in settings.GATEWAY_KEY_PEPPERS
    ]


@register(Tags.database)
def check_semantic_aliases(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.W002: aliases that compare questions by embeddings which nobody makes."""
    rows = ModelAlias.objects.filter(enabled=True).exclude(cache="off").exclude(cache_semantic="")
    return [
        Warning(
            f"The alias {row.name} compares questions by the embeddings of {row.cache_semantic!r}, and there is no "
            "such alias: only equal requests are found in its cache.",
            hint="Make that alias, with a route to a model for embeddings, or empty the field.",
            id="gateway.W002",
        )
        for row in _read(rows, databases)
        if not ModelAlias.objects.filter(enabled=True, name=row.cache_semantic).exists()
    ]


@register(Tags.database)
def check_adapters(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """gateway.W004: aliases that let callers name an adapter, and lead to no provider that takes one."""
    rows = ModelAlias.objects.exclude(adapters=[]).prefetch_related("routes__provider")
    return [
        Warning(
            f"The alias {row.name} lets its callers name adapters, and none of its providers takes one.",
            hint="Give one of them the quirk adapter, such as {adapter}, or take the alias's adapters out.",
            id="gateway.W004",
        )
        for row in _read(rows, databases)
        if not any("adapter" in (route.provider.quirks or {}) for route in row.routes.all())
    ]


def _unknown_encryption_key(key_id: str, names: Sequence[str]) -> CheckMessage:
    return Error(
        f"{_listed(names)} sealed with the encryption key {key_id!r}, which is not in GATEWAY_ENCRYPTION_KEYS.",
        hint="Add the old key behind the first one, or enter these credentials again.",
        id="gateway.E002",
    )


def _closed(key_id: str, names: Sequence[str], *, wrong_key: bool) -> CheckMessage:
    # One credential alone says nothing about the key: its provider's address may have changed since.
    if wrong_key and len(names) > 1:
        return Error(
            f"Nothing opens with the encryption key {key_id!r} of GATEWAY_ENCRYPTION_KEYS: {_listed(names)} "
            "sealed with another.",
            hint="The id is right and the key is not: configure the key that they were sealed with.",
            id="gateway.E003",
        )
    return Warning(
        f"{_listed(names)} damaged, or sealed with another key or for another address of the provider.",
        hint="Enter what is named here again; until then it is left out and the others serve.",
        id="gateway.W001",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{'Credential' if len(names) == 1 else 'Credentials'} {shown}{more} {'is' if len(names) == 1 else 'are'}"


def _read(rows: Iterable[Row], databases: Sequence[str] | None) -> list[Row]:
    """The rows, or none where the check was not asked to look at the database, or it is not there or not migrated yet.

    `manage.py migrate` runs these checks too, and must not be stopped by a column that it is about to make.
    """
    if not databases or "default" not in databases:
        return []
    try:
        return list(rows)
    except DatabaseError:
        return []
