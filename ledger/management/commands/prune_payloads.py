"""`manage.py prune_payloads [--all] [--json]`: captured payloads whose days are over go, or all of them."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ledger.capture import prune


class Command(BaseCommand):
    help = "Deletes the captured payloads that have expired. The server does so by itself each hour."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="those too that have not expired")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        count = sum(prune(every=options["all"]))
        self.stdout.write(json.dumps({"payloads": count}) if options["json"] else f"{count} payloads are deleted.")
