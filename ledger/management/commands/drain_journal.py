"""`manage.py drain_journal [--json]`: what the processes that are gone left in their journals becomes rows."""

import json
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error

from ledger.adoption import Orphans
from ledger.journal import DIRECTORY, PAUSE, into_sql


class Command(BaseCommand):
    help = "Makes usage rows of the journals of processes that are gone; a running server does so by itself."
    # It is for the hour when the server does not start: what is wrong with its pages or settings must not stop it.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        orphans = Orphans(settings.DATA_DIR / DIRECTORY, into_sql)
        try:
            lines = orphans.adopt(between=lambda: time.sleep(PAUSE))
        except Error as error:
            raise CommandError(f"the database took no rows ({type(error).__name__}); the journals are kept") from error
        finally:
            orphans.release()
        left = orphans.left()
        if options["json"]:
            report = {"files": orphans.files, "lines": lines, "lost": orphans.lost, "left": left}
            self.stdout.write(json.dumps(report))
            return
        self.stdout.write(
            f"{orphans.files} journal files adopted: {lines} lines, {orphans.lost} requests lost. "
            f"{left} files of running processes are left to them."
        )
