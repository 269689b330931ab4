"""`manage.py purge_cache`: throw out kept answers, of an alias, of a key, or all."""

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from providers import overlay, purging
from providers.audit import ActingCommand
from providers.configfile import ConfigError
from providers.models import ClientKey, ModelAlias


class Command(ActingCommand):
    help = "Throw out answers that are kept in the cache: within two seconds no process gives one of them again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="what the alias has kept")
        parser.add_argument("--key", action="append", default=[], metavar="ID", help="what the key was answered")
        parser.add_argument("--all", action="store_true", help="everything")
        parser.add_argument("--json", action="store_true", help="print one JSON object with what was purged")

    def handle(self, *args: Any, **options: Any) -> None:
        names = [purging.name_of(purging.ALIAS, alias_id(name)) for name in options["alias"]]
        names += [purging.name_of(purging.KEY, principal(key)) for key in options["key"]]
        if options["all"]:
            names.append(purging.ALL)
        if not names:
            raise CommandError("Nothing is named: give --alias NAME, --key ID or --all.")
        purging.purge(*names)
        if options["json"]:
            self.stdout.write(json.dumps({"purged": names}))
        else:
            self.stdout.write(f"Purged: {', '.join(names)}.")


def alias_id(name: str) -> str:
    """Of a row, or of an alias of the configuration file; raises CommandError where there is neither."""
    found = ModelAlias.objects.filter(name=name).values_list("pk", flat=True).first()
    if found is None:
        try:
            found = next((card.id for card in overlay.load().aliases if card.name == name), None)
        except ConfigError as error:
            raise CommandError(str(error)) from None
    if found is None:
        raise CommandError(f"There is no alias named {name!r}.")
    return found


def principal(key_id: str) -> str:
    row = ClientKey.objects.by_id(key_id)
    if row is None:
        raise CommandError(f"There is no client key with the id {key_id}.")
    return row.principal or row.id
