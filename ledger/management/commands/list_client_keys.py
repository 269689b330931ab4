"""`manage.py list_client_keys`: who holds a key, what state it is in, and when it was last used."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from ledger.models import UsageRecord
from providers import peppers, repepper
from providers.models import ClientKey


class Command(BaseCommand):
    help = "List client keys with their last use."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--stale",
            action="store_true",
            help="only keys that still work, but have a successor or are under an old pepper; ends with 1 if there are",
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        rows = stale(with_last_use()) if options["stale"] else with_last_use()
        keys = [as_object(row) for row in rows.order_by("name", "created_at", "id")]
        if options["json"]:
            self.stdout.write(json.dumps({"keys": keys}))
        else:
            for key in keys:
                words = [key["id"], key["state"], key["name"], f"last used {key['last_used_at'] or 'never'}"]
                if key["successor"]:
                    words.append(f"its successor is {key['successor']}, it ends {key['expires_at']}")
                self.stdout.write("  ".join(words))
            self.stdout.write(f"{len(keys)} {'stale' if options['stale'] else 'keys'}.")
        if options["stale"] and keys:
            raise SystemExit(1)


def with_last_use() -> QuerySet[ClientKey]:
    last = UsageRecord.objects.filter(key_id=OuterRef("pk")).order_by("-started_at").values("started_at")[:1]
    return ClientKey.objects.annotate(last_used_at=Subquery(last))


def stale(rows: QuerySet[ClientKey]) -> QuerySet[ClientKey]:
    live = rows.filter(pk__in=repepper.live().values("pk"))
    return live.filter(~Q(successor=None) | ~Q(pepper_id=peppers.primary()[0]))


def as_object(row: Any) -> dict[str, Any]:
    ends_at = row.ends_at
    over = ends_at is not None and ends_at <= timezone.now()
    state = "compromised" if row.compromised_at else "disabled" if not row.enabled else "expired" if over else "live"
    return {
        "id": row.id,
        "name": row.name,
        "state": state,
        "expires_at": ends_at.isoformat(timespec="seconds") if ends_at else None,
        "successor": row.successor_id,
        "pepper": row.pepper_id,
        "last_used_at": row.last_used_at.isoformat(timespec="seconds") if row.last_used_at else None,
    }
