"""`manage.py prune_usage --before 90d [--rollups] [--dry-run] [--json]`: old usage rows go, in small batches."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ledger.models import UsageRecord
from ledger.periods import moment
from ledger.retention import prune


class Command(BaseCommand):
    help = "Deletes the usage rows that are older. Daily totals and budgets keep what they add up to."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--before", required=True, help="an age such as 90d, or a day such as 2026-01-31 (UTC)")
        parser.add_argument("--rollups", action="store_true", help="delete the daily totals before that too")
        parser.add_argument("--dry-run", action="store_true", help="count them only")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            before = moment(options["before"], now=timezone.now())
        except ValueError as error:
            raise CommandError(str(error)) from None
        if options["dry_run"]:
            count = UsageRecord.objects.filter(started_at__lt=before).count()
        else:
            count = sum(prune(before, rollups=options["rollups"]))
        report = {"before": before.isoformat(), "rows": count, "dry_run": options["dry_run"]}
        done = "would be deleted" if options["dry_run"] else "are deleted"
        self.stdout.write(json.dumps(report) if options["json"] else f"{count} rows before {before:%F %T} {done}.")
