"""`manage.py diff_config FILE`: in what the rows differ from a configuration file."""

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from providers.configfile import ConfigError, read
from providers.overlay import address_policy
from providers.sync import Rows, compare, views_of


class Command(BaseCommand):
    help = "Say what leads from the rows to the file; ends with 1 where they differ. Changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the configuration file")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            config = read(options["file"], address_policy())
        except ConfigError as error:
            raise CommandError(str(error)) from None
        changes = compare(Rows().views(), views_of(config))
        if options["json"]:
            self.stdout.write(json.dumps({"changes": [change.as_json() for change in changes]}))
        else:
            for change in changes:
                self.stdout.write("\n".join(change.lines()))
        if changes:
            sys.exit(1)
