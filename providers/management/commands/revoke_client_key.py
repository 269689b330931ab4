"""`manage.py revoke_client_key ID`: no process accepts the key any more, within two seconds."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from providers.audit import ActingCommand
from providers.models import ClientKey


class Command(ActingCommand):
    help = "Revoke a client key. Its row stays, disabled, so that the records of its use keep their name."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the key's id, as create_client_key and the admin show it")
        parser.add_argument("--dry-run", action="store_true", help="only say what would happen")
        parser.add_argument("--json", action="store_true", help="print one JSON object with id and enabled")

    def handle(self, *args: Any, **options: Any) -> None:
        row = ClientKey.objects.by_id(options["id"])
        if row is None:
            raise CommandError(f"There is no client key with the id {options['id']}.")
        dry_run = options["dry_run"]
        if not dry_run:
            # It has expired besides, so that enabling it alone does not bring it back.
            row.enabled, row.expires_at = False, min(filter(None, (row.expires_at, timezone.now())))
            row.save(update_fields=["enabled", "expires_at", "updated_at"])
        if options["json"]:
            said = {"id": row.id, "enabled": row.enabled}
            self.stdout.write(json.dumps(said | {"dry_run": True} if dry_run else said))
        else:
            self.stdout.write(f"The key {row.name} ({row.id}) {'would be' if dry_run else 'is'} revoked.")
