"""`manage.py import_config FILE`: make the rows say what a configuration file says."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from providers.audit import ActingCommand
from providers.configfile import ConfigError, read
from providers.importing import import_configuration
from providers.overlay import address_policy


class Command(ActingCommand):
    help = "Import providers, aliases and client key settings from a YAML file, all of it or nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", help="the configuration file")
        parser.add_argument("--dry-run", action="store_true", help="only say what would change")
        parser.add_argument("--prune", action="store_true", help="delete what an earlier file made and this one lacks")
        parser.add_argument("--adopt", action="store_true", help="take over rows of the same names made in the admin")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        dry_run = options["dry_run"]
        try:
            config = read(options["file"], address_policy())
            outcome = import_configuration(config, dry_run=dry_run, prune=options["prune"], adopt=options["adopt"])
        except ConfigError as error:
            raise CommandError(f"Nothing was imported.\n{error}") from None
        if options["json"]:
            changes = [change.as_json() for change in outcome.changes]
            self.stdout.write(json.dumps({"dry_run": dry_run, "changes": changes, "pending": outcome.pending}))
            return
        for change in outcome.changes:
            self.stdout.write("\n".join(change.lines()))
        for name in outcome.pending:
            self.stdout.write(f"! keys.{name}: no such key yet: make it with create_client_key, then import again")
        verb = "would change" if dry_run else "changed"
        self.stdout.write(f"{len(outcome.changes)} {verb}.")
