"""`manage.py create_client_key NAME`: make a key for an application, and show it this once."""

import json
import os
import re
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from providers.managers import KeyRefused
from providers.models import ClientKey

SPAN = re.compile(r"([1-9][0-9]{0,5})([smhdw])\Z")
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Command(BaseCommand):
    help = "Create a client key, or take over one that is in use already; a new key is shown once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="what the key is for, such as web-app")
        parser.add_argument(
            "--alias",
            action="append",
            metavar="PATTERN",
            help="a model that it may ask for: fast, mistral/* (default *)",
        )
        parser.add_argument(
            "--expires", metavar="SPAN", help="how long it lives, such as 12h or 30d (default: for ever)"
        )
        parser.add_argument(
            "--existing-key-env", metavar="NAME", help="take over the key that this environment variable holds"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object with id and key")

    def handle(self, *args: Any, **options: Any) -> None:
        name, source = options["name"], options["existing_key_env"]
        aliases = options["alias"] or ["*"]
        expires_at = expiry(options["expires"])
        try:
            if source:
                token = existing_key(source)
                row = ClientKey.objects.adopt(token, name=name, aliases=aliases, expires_at=expires_at)
            else:
                row, token = ClientKey.objects.mint(name, aliases=aliases, expires_at=expires_at)
        except KeyRefused as error:
            raise CommandError(f"No key was created: {error}.") from None
        if options["json"]:
            self.stdout.write(json.dumps({"id": row.id, "key": token}))
        elif source:
            self.stdout.write(f"The key in {source} is valid here from now on. Its id is {row.id}.")
        else:
            self.stdout.write(f"{token}\nIts id is {row.id}. The key is not kept, and is shown this once.")


def existing_key(variable: str) -> str:
    """The key in that environment variable; raises CommandError where there is none."""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise CommandError(f"No key was created: the environment variable {variable} is not set.")
    return token


def expiry(span: str | None) -> datetime | None:
    """The end of a span such as 30d, from now; raises CommandError where it is none."""
    if span is None:
        return None
    match = SPAN.match(span)
    if match is None:
        raise CommandError(
            f"--expires {span} is no span of time: write a number and one of s, m, h, d, w, such as 30d."
        )
    return timezone.now() + timedelta(**{UNITS[match[2]]: int(match[1])})
