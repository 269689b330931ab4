"""`manage.py rotate_pepper`: move the client keys to the first pepper of GATEWAY_KEY_PEPPERS."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from providers import peppers, repepper, spans
from providers.audit import ActingCommand


class Command(ActingCommand):
    help = (
        "Give the keys under an older pepper a deadline: each is moved when it is used, and refused from the deadline "
        "on when it is not. Run it once all processes have the new pepper first in the list; ends with 1 while keys "
        "are left."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deadline", default="30d", metavar="SPAN", help="how long a key has for its move (30d)")
        parser.add_argument("--status", action="store_true", help="only say which keys are left")
        parser.add_argument("--dry-run", action="store_true", help="the same")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            deadline = timezone.now() + spans.parse(options["deadline"])
        except ValueError as error:
            raise CommandError(f"--deadline {error}") from None
        changed = 0 if options["status"] or options["dry_run"] else repepper.set_deadline(deadline)
        found = repepper.status()
        left = [
            {
                "id": row.id,
                "name": row.name,
                "pepper": row.pepper_id,
                "known": row.pepper_id in peppers.ring(),
                "deadline": row.pepper_deadline.isoformat(timespec="seconds") if row.pepper_deadline else None,
            }
            for row in found.left
        ]
        if options["json"]:
            said = {"pepper": peppers.primary()[0], "counts": dict(found.counts), "changed": changed, "left": left}
            self.stdout.write(json.dumps(said))
        else:
            for row in left:
                end = f"until {row['deadline']}" if row["deadline"] else "without a deadline"
                known = "" if row["known"] else ", which is not in GATEWAY_KEY_PEPPERS: it is refused"
                self.stdout.write(f"{row['id']}  {row['name']}  under {row['pepper']}{known}, {end}")
            self.stdout.write(f"{len(left)} left, {changed} given a deadline.")
        if left:
            raise SystemExit(1)
