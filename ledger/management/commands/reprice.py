"""`manage.py reprice --since DAY [--until DAY] [--dry-run] [--json]`: stored rows get the prices that hold now."""

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ledger.journal import PAUSE
from ledger.money import text
from ledger.periods import moment
from ledger.pricing import Repriced, reprice


class Command(BaseCommand):
    help = "Prices the rows of a period anew, and moves daily totals and budgets by the difference."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", required=True, help="an age such as 30d, or a day such as 2026-01-31 (UTC)")
        parser.add_argument("--until", help="up to, and without, that moment; now by default")
        parser.add_argument("--dry-run", action="store_true", help="say what would change")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            since, until = moment(options["since"], now=now), moment(options["until"] or now.isoformat(), now=now)
        except ValueError as error:
            raise CommandError(str(error)) from None
        done = Repriced()
        for progress in reprice(since, until, dry_run=options["dry_run"]):
            done = progress
            time.sleep(PAUSE)
        report = {
            "rows": done.rows,
            "changed": done.changed,
            "before": text(done.before),
            "after": text(done.after),
            "dry_run": options["dry_run"],
        }
        told = f"{done.changed} of {done.rows} rows: {report['before']} US dollars before, {report['after']} after."
        self.stdout.write(json.dumps(report) if options["json"] else told)
