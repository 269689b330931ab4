"""`manage.py rotate_provider_credential PROVIDER NAME`: a provider's new token in place of those in use."""

import json
import os
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from providers import credentialrotation
from providers.audit import ActingCommand
from providers.credentialrotation import RotationRefused
from providers.models import Provider


class Command(ActingCommand):
    help = (
        "Store a provider's new token, try it out, and use it in place of the others, which are switched off and not "
        "deleted. Run again without a token, it goes on with the one that is stored under the name."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", help="the provider's name")
        parser.add_argument("name", help="a name for the new credential, such as 2027-01")
        token = parser.add_mutually_exclusive_group()
        token.add_argument("--secret-env", metavar="NAME", help="the environment variable that holds the token now")
        token.add_argument("--reference", metavar="env:NAME", help="store this reference in place of the token")
        parser.add_argument("--trust", action="store_true", help="use it though the provider cannot be asked")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be switched off")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        provider = Provider.objects.filter(name=options["provider"]).first()
        if provider is None:
            raise CommandError(f"There is no provider named {options['provider']!r}.")
        name = options["name"]
        in_use = [row.name for row in provider.credentials.filter(enabled=True).exclude(name=name)]
        said: dict[str, Any] = {"provider": provider.name, "new": name, "old": in_use, "dry_run": options["dry_run"]}
        if not options["dry_run"]:
            secret = secret_of(options["secret_env"])
            try:
                done = credentialrotation.rotate(
                    provider, name, secret=secret, reference=options["reference"] or "", trust=options["trust"]
                )
            except RotationRefused as error:
                raise CommandError(f"Nothing in use was changed: {error}.") from None
            except ValidationError as error:
                raise CommandError(f"Nothing was changed: {' '.join(error.messages)}") from None
            said |= {"old": [row.name for row in done.old], "status": done.probe.status}
        if options["json"]:
            self.stdout.write(json.dumps(said))
        else:
            verb = "would be" if options["dry_run"] else "are"
            self.stdout.write(f"{provider.name} uses {name}; switched off {verb}: {', '.join(said['old']) or 'none'}.")


def secret_of(variable: str | None) -> str:
    """The token in that environment variable; raises CommandError where there is none that a header can carry."""
    if variable is None:
        return ""
    token = os.environ.get(variable, "").strip()
    if not token or not (token.isascii() and token.isprintable() and " " not in token):
        raise CommandError(f"The environment variable {variable} holds no token.")
    return token
