"""`manage.py explain --key ID --model ALIAS`: what would become of a request, without a call upstream."""

import json
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway import explaining
from gateway.errors import GatewayError
from gateway.explaining import Case
from gateway.limits.claims import Claim, Estimates, Verdict, standing
from gateway.limits.store import Store
from gateway.parsing import asks
from gateway.spending import budgets_of
from ledger import leases
from ledger.budgets import place_of
from ledger.money import ZERO
from ledger.ownprices import OwnPrices
from ledger.pricebook import PriceBook
from providers import catalog, snapshot
from providers.cards import key_card
from providers.models import ClientKey
from providers.targets import KeyCard

PATHS = {"chat.completions": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings"}
HELP = (
    "Say as JSON which alias and routes a request would take and why, its limits and budgets with what is left, and "
    "the most that it can cost. Nothing is sent. Breakers, the cache and what a single process counts are in the "
    "memory of the processes that serve: the header x-gateway-explain: 1 asks one of them."
)


class Command(BaseCommand):
    help = HELP

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--key", required=True, metavar="ID", help="the key's id, as list_client_keys shows it")
        parser.add_argument("--model", required=True, metavar="ALIAS", help="the model that would be asked for")
        parser.add_argument("--endpoint", choices=sorted(PATHS), default="chat.completions")
        parser.add_argument("--end-user", default="", metavar="NAME", help="the end user that would be named")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="the bound that the request would give")

    def handle(self, *args: Any, **options: Any) -> None:
        row = ClientKey.objects.by_id(options["key"])
        if row is None:
            raise CommandError(f"There is no key with the id {options['key']}.")
        key = key_card(row)
        catalog.Reader(database=True).load()
        fields: dict[str, Any] = {"model": options["model"], "messages": [], "max_tokens": options["max_tokens"]}
        if options["end_user"]:
            fields["user"] = options["end_user"]
        body = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
        endpoint = options["endpoint"]
        try:
            ask = asks.parse(body, endpoint=endpoint, path=PATHS[endpoint], streams=True)
            case = Case(ask, key, snapshot.current(), time.time())
            self.stdout.write(json.dumps({"key": about(key, case.at), **told(case)}, indent=2))
        except GatewayError as error:
            raise CommandError(f"It would be refused with {error.status}: {error.message}") from None


def about(key: KeyCard, at: float) -> dict[str, Any]:
    return {"id": key.id, "name": key.name, "live": key.is_live(at), "team": key.team.name if key.team else None}


def told(case: Case) -> dict[str, Any]:
    targets, book, estimates = explaining.ordered(case), PriceBook(OwnPrices()), Estimates()
    book.read_own()
    book.resolve([(target.provider, target.model, case.alias.name) for target in targets])
    cards = budgets_of(case.key, case.config)
    accounts = {card: place_of(card, case.ask.end_user, case.at).id for card in cards}
    spent = leases.spent(list(accounts.values()))
    return {
        **explaining.said(case, targets, book, estimates),
        "routes": explaining.routes(case, targets, book, None),
        "limits": explaining.limits(case, shared_look(), estimates),
        "limits_counted_in": counted_in(),
        "budgets": [explaining.budget(card, spent.get(accounts[card], ZERO)) for card in cards],
    }


def counted_in() -> str:
    if settings.REDIS_URL:
        return "Redis, which this command does not ask"
    if "memory" in Store("").modes().values():
        return "the memory of the one process that serves, which this command does not see"
    return "the database"


def shared_look() -> Any:
    """Where the buckets stand in the database; one that has no row there is full."""
    debts, now = Store("").debts(), time.monotonic()

    def look(claim: Claim) -> Verdict:
        verdict = Verdict()
        for charge in claim.charges:
            verdict.note(charge.kind, standing(charge.rate, now + debts.get(charge.bucket, 0.0), now))
        return verdict

    return look
