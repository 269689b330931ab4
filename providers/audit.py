"""Who changed what in the configuration: one record of history a write, in the same transaction, without secrets."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from django.core.management.base import BaseCommand
from django.db import models
from django.dispatch import receiver
from simple_history.models import HistoricalRecords
from simple_history.signals import pre_create_historical_record

ACTOR_CHARS = 150
REASON_CHARS = 100
BATCH = 500

_actor: ContextVar[str] = ContextVar("actor", default="")


class Acted(models.Model):
    """What our records of history hold beside the row: `command:NAME`, or the name of who was signed in."""

    actor = models.CharField(max_length=ACTOR_CHARS, blank=True, default="", editable=False)

    class Meta:
        abstract = True


def history(*, without: Collection[str] = ()) -> HistoricalRecords:
    """The history of a model; the columns of `without` are not in it: seals, digests and what changes by itself."""
    return HistoricalRecords(
        bases=[Acted],
        excluded_fields=["updated_at", *without],
        history_id_field=models.BigAutoField(),
        history_change_reason_field=models.CharField(max_length=REASON_CHARS, null=True),
        user_db_constraint=False,
    )


@contextmanager
def acting(name: str) -> Iterator[None]:
    """What is written in this block is written by `name`."""
    token = _actor.set(name)
    try:
        yield
    finally:
        _actor.reset(token)


def actor() -> str:
    """Who writes now; "" where nobody has said so, as in a shell."""
    user = getattr(getattr(HistoricalRecords.context, "request", None), "user", None)
    signed_in = user.get_username() if user is not None and user.is_authenticated else ""
    return (_actor.get() or signed_in)[:ACTOR_CHARS]


class ActingCommand(BaseCommand):
    """A command whose writes are recorded as those of `command:NAME`."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        with acting(f"command:{type(self).__module__.rpartition('.')[2]}"):
            return super().execute(*args, **options)


def is_kept(model: type[models.Model], columns: Collection[str]) -> bool:
    """Whether the history of the model holds one of the columns; False for a model without a history."""
    manager = getattr(model, "history", None)
    if manager is None:
        return False
    kept = {name for field in manager.model.tracked_fields for name in (field.name, field.attname)}
    return not kept.isdisjoint(columns)


def note(model: type[models.Model], pks: Collection[Any], *, using: str, made: bool = False, reason: str = "") -> None:
    """One record for each of those rows, as it stands now: for what passes by `save()`."""
    manager = getattr(model, "history", None)
    if manager is None:
        return
    found = list(pks)
    for start in range(0, len(found), BATCH):
        rows = model._base_manager.using(using).filter(pk__in=found[start : start + BATCH])
        manager.bulk_history_create(
            list(rows), update=not made, default_change_reason=reason, custom_historical_attrs={"actor": actor()}
        )


@receiver(pre_create_historical_record)
def _name_actor(sender: type[models.Model], history_instance: Any, **kwargs: Any) -> None:
    if isinstance(history_instance, Acted):
        history_instance.actor = actor()
