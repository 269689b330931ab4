"""`manage.py create_client_key NAME`: make a key for an application, and show it this once."""

import json
import os
from datetime import datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from providers import allowances, newkeys
from providers.audit import ActingCommand
from providers.managers import KeyRefused
from providers.models import ClientKey, Team

SETTINGS = (
    *("rpm", "burst", "tpm", "concurrency", "budget", "max_tokens", "max_n", "unknown_price"),
    *("address_rpm", "end_user_rpm", "end_user_budget", "default_provider"),
)
LISTS = {"endpoints": "endpoint", "cidrs": "cidr", "origins": "origin"}


class Command(ActingCommand):
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
            "--expires",
            metavar="SPAN",
            help="how long it lives, such as 12h, 30d or never (default: GATEWAY_DEFAULT_EXPIRES)",
        )
        add_limits(parser)
        parser.add_argument("--team", metavar="NAME", help="the team whose limits and budget it shares")
        parser.add_argument("--endpoint", action="append", metavar="NAME", help="such as embeddings (default: all)")
        parser.add_argument(
            "--cidr", action="append", metavar="NETWORK", help="where calls may come from (192.0.2.0/24)"
        )
        parser.add_argument(
            "--default-provider", metavar="NAME", help="where calls go that name no model: files, batches"
        )
        parser.add_argument("--max-tokens", type=int, metavar="N", help="the most output tokens that may be asked for")
        parser.add_argument("--max-n", type=int, metavar="N", help="the most choices (n) that may be asked for")
        parser.add_argument(
            "--unknown-price", metavar="POLICY", help="allow, block, or the US dollars that such a request is charged"
        )
        parser.add_argument(
            "--kind",
            choices=allowances.KINDS,
            default=allowances.SECRET,
            help="publishable: may stand in a page's source; wants --origin, --alias, --endpoint, --max-tokens and "
            "--address-rpm",
        )
        parser.add_argument(
            "--origin",
            action="append",
            metavar="ORIGIN",
            help="of pages that may use it: https://app.example.com, https://*.example.com",
        )
        parser.add_argument("--address-rpm", type=int, metavar="N", help="requests a minute of each address")
        parser.add_argument("--end-user-rpm", type=int, metavar="N", help="requests a minute of each end user")
        parser.add_argument("--end-user-budget", metavar="AMOUNT/PERIOD", help="US dollars of each end user: 0.10/day")
        parser.add_argument(
            "--existing-key-env", metavar="NAME", help="take over the key that this environment variable holds"
        )
        parser.add_argument("--dry-run", action="store_true", help="only say what would be made, or why it cannot be")
        parser.add_argument("--json", action="store_true", help="print one JSON object with id and key")

    def handle(self, *args: Any, **options: Any) -> None:
        source, dry_run = options["existing_key_env"], options["dry_run"]
        try:
            usual = newkeys.defaults()
        except ValueError as error:
            raise CommandError(f"No key was created: {error}") from None
        try:
            with transaction.atomic():
                row, token = made(usual, options)
                transaction.set_rollback(dry_run)
        except KeyRefused as error:
            raise CommandError(f"No key was created: {error}.") from None
        if dry_run:
            said = {"id": None, "key": None, "dry_run": True}
            self.stdout.write(json.dumps(said) if options["json"] else f"Nothing was created. {newkeys.described(row)}")
        elif options["json"]:
            self.stdout.write(json.dumps({"id": row.id, "key": token}))
        elif source:
            self.stdout.write(f"The key in {source} is valid here from now on. Its id is {row.id}.")
            self.stdout.write(newkeys.described(row))
        else:
            self.stdout.write(f"{token}\nIts id is {row.id}. The key is not kept, and is shown this once.")
            self.stdout.write(newkeys.described(row))


def add_limits(parser: CommandParser) -> None:
    parser.add_argument(
        "--rpm", type=int, metavar="N", help="requests a minute; 0 is no limit (default: GATEWAY_DEFAULT_RPM)"
    )
    parser.add_argument("--burst", type=int, metavar="N", help="requests at a stroke (default: a tenth of --rpm)")
    parser.add_argument("--tpm", type=int, metavar="N", help="tokens a minute")
    parser.add_argument("--concurrency", type=int, metavar="N", help="requests at once")
    parser.add_argument(
        "--budget",
        metavar="AMOUNT/PERIOD",
        help="US dollars a day, month or in total: 5.00/month; or none (default: GATEWAY_DEFAULT_BUDGET)",
    )


def made(usual: newkeys.Defaults, options: dict[str, Any]) -> tuple[ClientKey, str]:
    """The key's row and its token; raises KeyRefused, and CommandError for an option that says nothing."""
    name, source, aliases = options["name"], options["existing_key_env"], options["alias"] or ["*"]
    expires_at = usual.ends_at() if options["expires"] is None else expiry(options["expires"])
    given = {"rpm": usual.rpm, "budget": usual.budget, **allowed(options)}
    if source and options["kind"] != allowances.SECRET:
        raise KeyRefused("a publishable key is made here: its form says what it is")
    if not source:
        return ClientKey.objects.mint(name, aliases=aliases, expires_at=expires_at, kind=options["kind"], **given)
    token = existing_key(source)
    return ClientKey.objects.adopt(token, name=name, aliases=aliases, expires_at=expires_at, **given), token


def allowed(options: dict[str, Any]) -> dict[str, Any]:
    """The settings that the options name, and the team; raises CommandError where there is no such team."""
    given = {name: options[name] for name in SETTINGS if options[name] is not None}
    given |= {name: options[option] for name, option in LISTS.items() if options[option]}
    if given.get("budget") == newkeys.NONE:
        given["budget"] = ""
    if options["team"]:
        given["team"] = Team.objects.filter(name=options["team"]).first()
        if given["team"] is None:
            raise CommandError(f"No key was created: there is no team named {options['team']!r}.")
    return given


def existing_key(variable: str) -> str:
    """The key in that environment variable; raises CommandError where there is none."""
    token = os.environ.get(variable, "").strip()
    if not token:
        raise CommandError(f"No key was created: the environment variable {variable} is not set.")
    return token


def expiry(span: str) -> datetime | None:
    """The end of a span such as 30d, from now, None for `never`; raises CommandError where it is no span."""
    try:
        lifetime = newkeys.lifetime(span)
        return None if lifetime is None else timezone.now() + lifetime
    except ValueError as error:
        raise CommandError(f"--expires {error}") from None
