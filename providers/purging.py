"""What has been thrown out of the cache of answers: a mark that is a part of what an answer is found by.

Nothing is searched and deleted. From the moment when a process knows a new mark, what was kept under the old one is
not found any more, wherever it lies, and goes when its time is over.
"""

from collections.abc import Mapping
from datetime import timedelta

from django.db import models, transaction
from django.utils import timezone

from providers import audit
from providers.allowances import MAX_TTL
from providers.changes import Tracked
from providers.ids import uuid7

ALL = "all"
ALIAS, KEY = "alias", "key"
# After that nothing is left that was kept before: an answer is good, and stands in, for MAX_TTL each.
MOOT = timedelta(seconds=2 * MAX_TTL + 86_400)


class CachePurge(Tracked):
    """The newest purge of everything (`all`), of an alias (`alias:ID`), or of what one key was answered (`key:ID`)."""

    id = models.CharField(primary_key=True, max_length=60, editable=False)
    mark = models.CharField(max_length=40, default=uuid7, editable=False)
    at = models.DateTimeField(default=timezone.now, editable=False)
    actor = models.CharField(max_length=audit.ACTOR_CHARS, blank=True, default="", editable=False)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return self.id


def purge(*names: str) -> None:
    """Throw out what is kept under those names: ALL, or what `name_of` gives. Every process knows within 2 s."""
    with transaction.atomic():
        CachePurge.objects.filter(at__lt=timezone.now() - MOOT).delete()
        for name in names:
            CachePurge(id=name, actor=audit.actor()).save()


def name_of(kind: str, row_id: str) -> str:
    """`kind` is ALIAS or KEY; of a key the id is its principal's."""
    return f"{kind}:{row_id}"


def read_marks() -> Mapping[str, str]:
    """The marks by name."""
    return dict(CachePurge.objects.values_list("pk", "mark"))
