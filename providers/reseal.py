"""Sealed columns under a new encryption key: every SealedField of every model, in batches, with compare-and-swap."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import msgspec
from django.apps import apps
from django.conf import settings
from django.db import models, transaction

from providers import audit, vault
from providers.addresses import AddressError
from providers.fields import SealedField

BATCH = 200


class Sealed(Protocol):
    """A row with a sealed column says for which origin it was sealed; raises AddressError."""

    @property
    def seal_origin(self) -> str: ...


class Column(msgspec.Struct, frozen=True):
    model: type[models.Model]
    name: str

    def __str__(self) -> str:
        return f"{self.model._meta.label}.{self.name}"


class Status(msgspec.Struct):
    """Values by the id of the key that they name, and those that do not open, by column and row."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    closed: list[str] = msgspec.field(default_factory=list)

    def left(self, key_id: str) -> int:
        """How many values are under another key than that one."""
        return self.counts.total() - self.counts[key_id]


def columns() -> list[Column]:
    """Every sealed column of every installed model, so that none can be forgotten."""
    return [
        Column(model, item.name)
        for model in apps.get_models()
        for item in model._meta.get_fields()
        if isinstance(item, SealedField)
    ]


def ring() -> Mapping[str, bytes]:
    """The configured encryption keys, the one for writing first."""
    configured: Mapping[str, bytes] = settings.GATEWAY_ENCRYPTION_KEYS
    return configured


def primary() -> str:
    """The id of the key that is written with; raises VaultError where there is none."""
    if not ring():
        raise vault.VaultError("GATEWAY_ENCRYPTION_KEYS holds no key")
    return next(iter(ring()))


def status() -> Status:
    """Try every sealed value."""
    found = Status()
    for column in columns():
        for row in _rows(column, after="").iterator(chunk_size=BATCH):
            value = getattr(row, column.name)
            try:
                found.counts[vault.key_id_of(value)] += 1
                _open(row, value)
            except (vault.VaultError, AddressError) as error:
                found.closed.append(f"{column} of {row.pk}: {error}")
    return found


def rewrap() -> int:
    """Seal anew what is under an older key; gives how many were. What does not open is left as it is.

    A value that somebody has changed meanwhile is theirs.
    """
    done = 0
    for column in columns():
        after = ""
        while batch := list(_rows(column, after=after)[:BATCH]):
            done += _rewrap_batch(column, batch)
            after = batch[-1].pk
    return done


def _rows(column: Column, *, after: str) -> models.QuerySet[models.Model]:
    rows = column.model._base_manager.exclude(**{column.name: ""}).filter(pk__gt=after).order_by("pk")
    needed = [item.name for item in column.model._meta.concrete_fields if item.many_to_one and not item.null]
    return rows.select_related(*needed) if needed else rows


def _rewrap_batch(column: Column, batch: list[models.Model]) -> int:
    old = [row for row in batch if _is_old(getattr(row, column.name))]
    changed: list[str] = []
    with transaction.atomic():
        for row in old:
            value = getattr(row, column.name)
            try:
                anew = vault.seal(ring(), _open(row, value), row_id=str(row.pk), origin=_origin(row))
            except (vault.VaultError, AddressError):
                continue
            same = column.model._base_manager.filter(**{"pk": row.pk, column.name: value})
            if same.update(**{column.name: anew}):
                _check(column, row, anew)
                changed.append(row.pk)
        audit.note(column.model, changed, using="default", reason=f"sealed with the key {primary()}")
    return len(changed)


def _is_old(value: str) -> bool:
    try:
        return vault.key_id_of(value) != primary()
    except vault.NotSealed:
        return False


def _check(column: Column, row: models.Model, anew: str) -> None:
    """Read back what was written; raises VaultError, which takes the batch back."""
    stored = column.model._base_manager.values_list(column.name, flat=True).get(pk=row.pk)
    if stored != anew:
        raise vault.VaultError(f"{column} of {row.pk} is not what was written")
    _open(row, stored)


def _open(row: models.Model, value: str) -> str:
    return vault.unseal(ring(), value, row_id=str(row.pk), origin=_origin(row)).reveal()


def _origin(row: models.Model) -> str:
    return cast("Sealed", row).seal_origin


def unfinished(found: Status) -> Iterator[str]:
    """What still stands against taking the old keys away."""
    for key_id, count in sorted(found.counts.items()):
        if key_id != primary():
            yield f"{count} sealed with the key {key_id}"
    yield from found.closed
