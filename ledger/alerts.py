"""Alerts: a row for each threshold that is passed, written with what passed it; one of the processes tells it."""

from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
from django.db.models import F, Q, Sum
from django.db.models.functions import Now

from ledger.models import Alert, BudgetAccount, UsageRecord
from ledger.money import ZERO, text

CLAIM_SECONDS = 60  # after which an alert that was claimed and not sent is anyone's again
TRIES = 10
AT_ONCE = 20


class Velocity(msgspec.Struct, frozen=True):
    """More than `amount` US dollars within `seconds`, by one key."""

    amount: Decimal
    seconds: int


def note(accounts: Iterable[BudgetAccount]) -> None:
    """The thresholds that these accounts are past, each once; in the caller's transaction."""
    found: list[Alert] = []
    for account in accounts:
        spent, amount = account.spent or ZERO, account.amount or ZERO
        for percent in account.alert_at:
            if isinstance(percent, int) and spent * 100 >= amount * percent:
                whose = f" of end user {account.subject}" if account.subject else ""
                said = f"{percent}% of the budget {account.budget}{whose} is spent: {spent:f} of {amount:f} US dollars"
                facts = {
                    "budget": account.budget,
                    "scope": account.scope,
                    "end_user": account.subject,
                    "period": account.period,
                    "starts_on": account.starts_on.isoformat() if account.starts_on else None,
                    "percent": percent,
                    "spent": text(spent),
                    "amount": text(amount),
                }
                found.append(Alert(id=f"{account.id}:{percent}", kind="budget", text=said[:500], facts=facts))
    if found:
        Alert.objects.bulk_create(found, ignore_conflicts=True)


def watch(limit: Velocity, now: float) -> None:
    """One alert a key and window, where it has spent more than the limit within the last `seconds`."""
    since = Now() - timedelta(seconds=limit.seconds)
    spent = UsageRecord.objects.filter(started_at__gte=since, cost__isnull=False).order_by()
    fast = spent.values("key_id").annotate(total=Sum("cost")).filter(total__gt=limit.amount)
    window = int(now // limit.seconds)
    found = [
        Alert(
            id=f"velocity:{row['key_id']}:{window}",
            kind="velocity",
            text=f"The key {row['key_id']} has spent {row['total']:f} US dollars in {limit.seconds} seconds",
            facts={"key": row["key_id"], "spent": text(row["total"]), "seconds": limit.seconds},
        )
        for row in fast
    ]
    if found:
        Alert.objects.bulk_create(found, ignore_conflicts=True)


def claim() -> list[Alert]:
    """Alerts that nobody has told yet, now this caller's to tell; each of them is claimed by one process at a time."""
    free = Q(claimed_at__isnull=True) | Q(claimed_at__lt=Now() - timedelta(seconds=CLAIM_SECONDS))
    waiting = Alert.objects.filter(free, sent_at__isnull=True, tries__lt=TRIES).order_by("created_at")[:AT_ONCE]
    return [
        alert
        for alert in waiting
        if Alert.objects.filter(free, pk=alert.pk, sent_at__isnull=True).update(claimed_at=Now(), tries=F("tries") + 1)
    ]


def told(alert_id: str) -> None:
    Alert.objects.filter(pk=alert_id).update(sent_at=Now())


def payload(alert: Alert) -> dict[str, Any]:
    """What the webhook is sent."""
    return {
        "id": alert.id,
        "kind": alert.kind,
        "text": alert.text,
        "at": alert.created_at.isoformat(),
        **alert.facts,
    }
