"""The change table: every write to a tracked row leaves (kind, id) in the same transaction, for every process to read.

Only what goes through the ORM is seen here; what does not is found by the reader's full reload, once a minute.
"""

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

from django.db import models, router, transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils import timezone

from providers import audit

# Beyond this many rows one entry, with the id EVERY, stands for all rows of the kind.
NAMED_LIMIT = 500
EVERY = ""

ChangeTarget = tuple[str, str]


class Change(models.Model):
    """One changed object: its kind is a model's name in small letters, its id "" where all of that kind may differ.

    Ids rise in the order of writing, but on PostgreSQL not always in the order in which they can be seen.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=30)
    object_id = models.CharField(max_length=40, blank=True)
    at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.kind} {self.object_id or '*'}"


def record(targets: Iterable[ChangeTarget], *, using: str) -> None:
    """Write one Change a target, into the transaction that is open on the database `using`."""
    found = dict.fromkeys(targets)
    if len(found) > NAMED_LIMIT:
        found = dict.fromkeys((kind, EVERY) for kind, _ in found)
    Change.objects.using(using).bulk_create(Change(kind=kind, object_id=object_id) for kind, object_id in found)


T = TypeVar("T", bound="Tracked")


class TrackedQuerySet(models.QuerySet[T]):
    """Writes that pass by `save()` and `delete()` leave their changes too."""

    def update(self, **kwargs: Any) -> int:
        using = self.db_for_writing
        with transaction.atomic(using=using):
            rows = self._pinned(using)
            audited = audit.is_kept(self.model, kwargs)
            if rows is None:
                record(self._every(), using=using)
                every = self.using(using).order_by().select_for_update(of=("self",)) if audited else self.none()
                named = list(every.values_list("pk", flat=True))
                updated = super().update(**kwargs)
                audit.note(self.model, named, using=using)
                return updated
            if not rows:
                return 0
            record((row.change_target() for row in rows), using=using)
            # Only rows that were recorded: another may have begun to match since.
            pks = [row.pk for row in rows]
            count = super(TrackedQuerySet, self.filter(pk__in=pks)).update(**kwargs)
            # A row may have moved to another parent, which then has changed as well.
            record(stored_targets(self.model, pks, using=using), using=using)
            if audited:
                audit.note(self.model, pks, using=using)
            return count

    update.alters_data = True  # type: ignore[attr-defined]

    def delete(self) -> tuple[int, dict[str, int]]:
        using = self.db_for_writing
        with transaction.atomic(using=using):
            rows = self._pinned(using)
            if rows is None:
                record(self._every(), using=using)
                return super().delete()
            record((row.change_target() for row in rows), using=using)
            return super(TrackedQuerySet, self.filter(pk__in=[row.pk for row in rows])).delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def bulk_create(self, objs: Iterable[T], *args: Any, **kwargs: Any) -> list[T]:
        using = self.db_for_writing
        with transaction.atomic(using=using):
            made = super().bulk_create(objs, *args, **kwargs)
            record((row.change_target() for row in made), using=using)
            audit.note(self.model, [row.pk for row in made], using=using, made=True)
            return made

    def bulk_update(self, objs: Iterable[T], *args: Any, **kwargs: Any) -> int:
        rows = tuple(objs)
        using = self.db_for_writing
        with transaction.atomic(using=using):
            record(stored_targets(self.model, [row.pk for row in rows], using=using), using=using)
            count = super().bulk_update(rows, *args, **kwargs)
            record((row.change_target() for row in rows), using=using)
            return count

    @property
    def db_for_writing(self) -> str:
        return self._db or router.db_for_write(self.model)  # type: ignore[attr-defined]

    def _every(self) -> set[ChangeTarget]:
        return {(kind, EVERY) for kind in self.model.change_kinds()}

    def _pinned(self, using: str) -> list[T] | None:
        """The rows that this query names now, locked until the transaction ends; None where there are too many."""
        rows = self.using(using).order_by().select_for_update(of=("self",))
        found = list(rows[: NAMED_LIMIT + 1])
        return None if len(found) > NAMED_LIMIT else found


class TrackedManager(models.Manager[T]):
    """The manager's own update(), bulk_create() and so on go through the query set as well."""

    def get_queryset(self) -> TrackedQuerySet[T]:
        return TrackedQuerySet(self.model, using=self._db)


class Tracked(models.Model):
    """A row whose every write is recorded in the change table, in the same transaction."""

    objects = TrackedManager()

    class Meta:
        abstract = True
        # Related managers and ON DELETE SET NULL write through the base manager.
        base_manager_name = "objects"

    def save(self, *args: Any, **kwargs: Any) -> None:
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            before = [] if self._state.adding else stored_targets(type(self), [self.pk], using=using)
            super().save(*args, **kwargs)
            record([*before, self.change_target()], using=using)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        using = kwargs.get("using") or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=using):
            record([*stored_targets(type(self), [self.pk], using=using), self.change_target()], using=using)
            return super().delete(*args, **kwargs)

    def change_target(self) -> ChangeTarget:
        """(kind, id) of what a reader has to load anew when this row changes: itself, or what it is a part of."""
        return type(self).__name__.lower(), str(self.pk)

    @classmethod
    def change_kinds(cls) -> Collection[str]:
        """The kinds that `change_target` of this model can name."""
        return (cls.__name__.lower(),)


def stored_targets(model: type[T], pks: Collection[Any], *, using: str) -> list[ChangeTarget]:
    """The targets of those rows as they stand in the database; none where a row's target is the row itself."""
    if model.change_target is Tracked.change_target:
        return []
    return [row.change_target() for row in model._base_manager.using(using).filter(pk__in=pks)]


@receiver(post_save)
def record_raw_save(
    sender: type[models.Model], instance: models.Model, using: str, *, raw: bool = False, **kwargs: Any
) -> None:
    """`loaddata` passes by the model's own `save()`, and says so with `raw`."""
    if raw and isinstance(instance, Tracked):
        record([instance.change_target()], using=using)
