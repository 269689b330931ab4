"""The limits that are configured now, for accounts to be looked at: an account learns a new one with its next lease."""

import time
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal

import msgspec
from django.db.models import Q

from ledger.budgets import starts_on
from ledger.models import BudgetAccount
from providers import allowances, overlay
from providers.configfile import ConfigError
from providers.models import ClientKey, Team
from providers.targets import BudgetCard


class Standing(msgspec.Struct, frozen=True):
    """`owner` is the name of whose budget it is, "" where it is gone.

    `limit` is None where no budget is configured any more. Of a period that is over it is the last one that held.
    """

    owner: str
    limit: Decimal | None


def standings(accounts: Iterable[BudgetAccount]) -> dict[str, Standing]:
    """By the account's id; with the same few queries whatever their number."""
    rows = list(accounts)
    names: dict[str, str] = {"": "the gateway"}
    cards: dict[str, BudgetCard] = {}
    _of_environment(names, cards)
    _of_rows({_owner_id(row) for row in rows}, names, cards)
    now = time.time()
    found: dict[str, Standing] = {}
    for row in rows:
        card = cards.get(row.budget)
        in_force = card.amount if card else None
        is_over = row.starts_on != starts_on(row.period, now)
        found[row.id] = Standing(names.get(_owner_id(row), ""), row.amount if is_over else in_force)
    return found


def _owner_id(row: BudgetAccount) -> str:
    """Of `key:k1:month` it is k1; a budget of the whole gateway has none."""
    return row.budget.removeprefix(row.scope).removesuffix(row.period).strip(":")


def _of_environment(names: dict[str, str], cards: dict[str, BudgetCard]) -> None:
    try:
        found = overlay.load()
    except ConfigError:  # which the pages of the providers say
        return
    cards.update((card.id, card) for card in found.gateway_budgets)
    for key in found.keys:
        names[key.principal] = key.name
        end_user = (key.end_user_budget,) if key.end_user_budget else ()
        cards.update((card.id, card) for card in (*key.budgets, *end_user))
        if key.team is not None:
            names[key.team.id] = key.team.name
            cards.update((card.id, card) for card in key.team.budgets)


def _of_rows(owner_ids: set[str], names: dict[str, str], cards: dict[str, BudgetCard]) -> None:
    for team in Team.objects.filter(pk__in=owner_ids):
        names[team.id] = team.name
        cards.update((card.id, card) for card in _cards(team.budget, "team", team.id))
    keys = ClientKey.objects.filter(Q(pk__in=owner_ids) | Q(principal__in=owner_ids)).order_by("created_at", "id")
    # A key and its successor are counted together: the newest says what holds.
    for owner, key in {key.principal or key.id: key for key in keys}.items():
        names[owner] = key.name
        budgets = (*_cards(key.budget, "key", owner), *_cards(key.end_user_budget, "end_user", owner))
        cards.update((card.id, card) for card in budgets)


def _cards(text: str, scope: str, owner: str) -> tuple[BudgetCard, ...]:
    """None of a text that no form lets through."""
    with suppress(ValueError):
        return allowances.budgets_of(allowances.budget(text), [], scope, owner)
    return ()
