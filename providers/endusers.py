"""End users about whom the operator has something to say: they are blocked, or their tokens are at an end.

The rows are few and all of them are in every process's catalog. They have no history: it would keep names that are to
be erased.
"""

from collections.abc import Mapping
from datetime import datetime

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from providers import audit
from providers.changes import Tracked
from providers.ids import uuid7
from providers.issuers import END_USER_CHARS
from providers.models import ClientKey
from providers.targets import EndUserCard

MAX_END_USERS = 10_000


class EndUser(Tracked):
    """`key` is the id that the application's limits are counted under; "": whatever key the name comes with."""

    id = models.CharField(primary_key=True, max_length=40, default=uuid7, editable=False)
    name = models.CharField(
        max_length=END_USER_CHARS, help_text="As the application names it: safety_identifier, user, or a token's."
    )
    key = models.CharField(
        max_length=40, blank=True, default="", help_text="The id of a client key. Empty: under every key."
    )
    blocked = models.BooleanField(default=True, help_text="Refused within two seconds, everywhere.")
    tokens_before = models.DateTimeField(
        "tokens at an end that were made before", null=True, blank=True, help_text="UTC. Empty: none."
    )
    at = models.DateTimeField("since", default=timezone.now, editable=False)
    actor = models.CharField("by", max_length=audit.ACTOR_CHARS, blank=True, default="", editable=False)

    class Meta:
        ordering = ["-at"]
        constraints = [models.UniqueConstraint(fields=["name", "key"], name="enduser_name")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        if self._state.adding and EndUser.objects.count() >= MAX_END_USERS:
            raise ValidationError(f"There are {MAX_END_USERS} already, and every process holds them: delete some.")
        self.key = principal_of(self.key)
        self.actor = self.actor or audit.actor()


def principal_of(key_id: str) -> str:
    """The id under which a key's limits are counted; what is no row of ours is taken as it is."""
    row = ClientKey.objects.by_id(key_id) if key_id else None
    return row.principal or row.id if row is not None else key_id


def set_state(
    name: str, key: str = "", *, blocked: bool | None = None, tokens_before: datetime | None = None
) -> EndUser:
    """Block, let in again, or end the tokens; None leaves it as it is. Raises ValidationError."""
    key = principal_of(key)
    row = EndUser.objects.filter(name=name, key=key).first() or EndUser(name=name, key=key, blocked=False)
    row.blocked = row.blocked if blocked is None else blocked
    row.tokens_before = tokens_before or row.tokens_before
    row.at, row.actor = timezone.now(), audit.actor()
    row.full_clean()
    row.save()
    return row


def read_end_users() -> Mapping[tuple[str, str], EndUserCard]:
    """By key and name; those that nothing is said of are left out."""
    rows = EndUser.objects.order_by("-at")[:MAX_END_USERS]
    return {
        (row.key, row.name): EndUserCard(row.blocked, row.tokens_before.timestamp() if row.tokens_before else 0.0)
        for row in rows
        if row.blocked or row.tokens_before
    }
