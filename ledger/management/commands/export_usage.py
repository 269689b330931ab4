"""`manage.py export_usage [--since 30d] [--until DAY] [--output FILE]`: the usage rows as CSV."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ledger import export
from ledger.periods import moment


class Command(BaseCommand):
    help = "Writes usage rows as CSV, oldest first, to the standard output or a file."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--since", help="an age such as 30d, or a day such as 2026-01-31 (UTC)")
        parser.add_argument("--until", help="up to, and without, that moment")
        parser.add_argument("--output", help="a file that does not exist yet")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            since, until = (moment(text, now=now) if text else None for text in (options["since"], options["until"]))
        except ValueError as error:
            raise CommandError(str(error)) from None
        lines = export.lines(export.within(since, until))
        if not options["output"]:
            export.written(lines, lambda line: self.stdout.write(line, ending=""))
            return
        try:
            with Path(options["output"]).open("x", encoding="utf-8", newline="") as file:
                count = export.written(lines, file.write)
        except OSError as error:
            raise CommandError(f"{options['output']} cannot be written: {error.strerror}") from None
        self.stderr.write(f"{count} rows are in {options['output']}.")
