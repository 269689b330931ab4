"""`manage.py erase_end_user NAME [--key ID] [--dry-run] [--json]`: the name goes out of all that is kept."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import Q

from ledger import erasure
from providers.audit import ActingCommand
from providers.endusers import EndUser, principal_of
from providers.models import ClientKey


class Command(ActingCommand):
    help = (
        "Take an end user's name out of usage rows, daily totals, budgets and alerts. What it used stays in the "
        "sums. A block stays, for it needs the name: lift it first where that is to go too."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="as the application names it")
        parser.add_argument("--key", default="", metavar="ID", help="under this client key only (default: every key)")
        parser.add_argument("--dry-run", action="store_true", help="count only")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        name, dry_run = options["name"], options["dry_run"]
        if not name:
            raise CommandError("Give the name of an end user.")
        principal = principal_of(options["key"])
        keys = keys_of(principal)
        found = erasure.erase(name, keys, dry_run=dry_run)
        users = EndUser.objects.filter(name=name, blocked=False)
        users = users.filter(key=principal) if principal else users
        found["revocations"] = users.count()
        if not dry_run:
            users.delete()
        if options["json"]:
            self.stdout.write(json.dumps({"end_user": name, "dry_run": dry_run, **found}))
        else:
            done = "would lose" if dry_run else "have lost"
            self.stdout.write(f"{sum(found.values())} records {done} the name: {found}.")


def keys_of(principal: str) -> list[str]:
    """The ids of all keys that are counted under that one; none for ""."""
    if not principal:
        return []
    rows = ClientKey.objects.filter(Q(pk=principal) | Q(principal=principal))
    return [principal, *rows.exclude(pk=principal).values_list("pk", flat=True)]
