"""`manage.py block_end_user NAME [--key ID] [--lift | --tokens]`: known to every process within two seconds."""

import json
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from providers.audit import ActingCommand
from providers.endusers import set_state


class Command(ActingCommand):
    help = "Block an end user everywhere, let it in again, or end the tokens that were made for it until now."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="as the application names it")
        parser.add_argument("--key", default="", metavar="ID", help="under this client key only (default: every key)")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--lift", action="store_true", help="let it in again")
        what.add_argument("--tokens", action="store_true", help="end its ephemeral tokens, and do not block it")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        blocked = None if options["tokens"] else not options["lift"]
        before = timezone.now() if options["tokens"] else None
        try:
            row = set_state(options["name"], options["key"], blocked=blocked, tokens_before=before)
        except ValidationError as error:
            raise CommandError("; ".join(error.messages)) from None
        if options["json"]:
            ended = row.tokens_before.isoformat() if row.tokens_before else None
            said = {"end_user": row.name, "key": row.key, "blocked": row.blocked, "tokens_before": ended}
            self.stdout.write(json.dumps(said))
        else:
            state = "its tokens are at an end" if options["tokens"] else "blocked" if row.blocked else "let in again"
            self.stdout.write(f"{row.name}: {state}.")
