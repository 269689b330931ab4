"""`manage.py rotate_client_key ID`: a new key in an old one's place, with the same limits and the same budget."""

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from ledger.models import UsageRecord
from providers import rotation, spans
from providers.audit import ActingCommand
from providers.managers import KeyRefused
from providers.rotation import Rotation

LOOKED_BACK = timedelta(days=1)


class Command(ActingCommand):
    help = "Make a successor of a client key, shown once; the old key works on during the overlap. Safe to run again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the key's id, as create_client_key and the admin show it")
        parser.add_argument("--overlap", default="24h", metavar="SPAN", help="how long the old key works on (24h)")
        parser.add_argument(
            "--compromised",
            action="store_true",
            help="refuse the old key from now on, end its running requests, and say how it was used in the last day",
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            overlap = spans.parse(options["overlap"])
        except ValueError as error:
            raise CommandError(f"--overlap {error}") from None
        dry_run, as_json, compromised = options["dry_run"], options["json"], options["compromised"]

        def show(done: Rotation) -> None:
            said = as_object(done, dry_run=dry_run, compromised=compromised)
            self.stdout.write(json.dumps(said) if as_json else "\n".join(lines(said)))
            self.stdout.flush()

        try:
            with transaction.atomic():
                rotation.rotate(options["id"], overlap=overlap, compromised=compromised, show=show)
                transaction.set_rollback(dry_run)
        except KeyRefused as error:
            raise CommandError(f"Nothing was changed: {error}.") from None


def as_object(done: Rotation, *, dry_run: bool, compromised: bool) -> dict[str, Any]:
    """`key` is null where the token was shown before, and in a dry run, whose token would be nobody's."""
    assert done.old.expires_at is not None
    said: dict[str, Any] = {
        "id": None if dry_run and done.token else done.successor.id,
        "key": None if dry_run else done.token,
        "old": done.old.id,
        "old_expires_at": done.old.expires_at.isoformat(timespec="seconds"),
        "principal": done.successor.principal,
        "dry_run": dry_run,
    }
    return said | {"last_day": used(done.old.id)} if compromised else said


def used(key_id: str) -> list[dict[str, Any]]:
    """The requests of the last day, newest first, at most 100."""
    rows = UsageRecord.objects.filter(key_id=key_id, started_at__gte=timezone.now() - LOOKED_BACK)
    return [
        {"id": row.id, "at": row.started_at.isoformat(timespec="seconds"), "alias": row.alias, "status": row.status}
        for row in rows.order_by("-started_at")[:100]
    ]


def lines(said: dict[str, Any]) -> list[str]:
    found: list[str] = []
    if said["dry_run"]:
        found.append(f"The key {said['old']} would expire at {said['old_expires_at']}. Nothing was changed.")
    elif said["key"]:
        found.append(f"{said['key']}\nIts id is {said['id']}. The key is not kept, and is shown this once.")
    else:
        found.append(f"The key {said['old']} has a successor already: {said['id']}. Its token was shown then.")
    if not said["dry_run"]:
        found.append(f"The old key {said['old']} expires at {said['old_expires_at']}.")
    if "last_day" in said:
        found.append(f"{len(said['last_day'])} requests with the old key in the last day:")
        found += [f"  {row['at']} {row['id']} {row['alias']} {row['status']}" for row in said["last_day"]]
    return found
