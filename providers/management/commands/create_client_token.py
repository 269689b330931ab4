"""`manage.py create_client_token KEY_ID --end-user NAME`: a token of a few minutes, and show it this once."""

import json
import time
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from providers import minting, spans
from providers.cards import BadRow, key_card
from providers.minting import MintRefused, Wish
from providers.models import ClientKey


class Command(BaseCommand):
    help = "Make an ephemeral token for one end user, charged to a secret key."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", help="the id of the secret key that it is charged to")
        parser.add_argument("--end-user", required=True, metavar="NAME", help="whom it is for")
        parser.add_argument("--expires", default="10m", metavar="SPAN", help="how long it lives: 10m (at most 1h)")
        parser.add_argument("--origin", help="of the page that it is for, one of the key's web origins")
        parser.add_argument("--alias", action="append", metavar="PATTERN", help="a model that it may ask for")
        parser.add_argument("--endpoint", action="append", metavar="NAME", help="such as chat.completions")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="the most output tokens of a request")
        parser.add_argument("--rpm", type=int, metavar="N", help="requests a minute of the end user")
        parser.add_argument("--json", action="store_true", help="print one JSON object with id, token and expires_at")

    def handle(self, *args: Any, **options: Any) -> None:
        row = ClientKey.objects.by_id(options["id"])
        given = {
            "end_user": options["end_user"],
            "origin": options["origin"],
            "aliases": options["alias"],
            "endpoints": options["endpoint"],
            "max_tokens": options["max_tokens"],
            "rpm": options["rpm"],
        }
        try:
            given["expires_in"] = int(spans.parse(options["expires"]).total_seconds())
            if row is None:
                raise ValueError(f"There is no client key with the id {options['id']}.")
            wish = msgspec.convert(given, Wish)
            card = key_card(row)
            if not card.is_live(time.time()):
                raise ValueError(f"The key {row.id} is disabled or has expired.")
            made = minting.mint(card, wish, settings.GATEWAY_KEY_PEPPERS, time.time())
        except (ValueError, MintRefused, BadRow) as error:
            raise CommandError(f"No token was made: {error}") from None
        if options["json"]:
            self.stdout.write(json.dumps({"id": made.id, "token": made.token, "expires_at": made.claims.expires_at}))
        else:
            self.stdout.write(f"{made.token}\nIts id is {made.id}. It is not kept, and is shown this once.")
