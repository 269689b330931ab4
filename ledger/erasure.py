"""An end user's name out of the account: what it used stays in the sums, and nobody can say whose it was."""

import time
from collections.abc import Collection, Iterator
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from ledger.journal import PAUSE
from ledger.models import Alert, BudgetAccount, CapturedPayload, DailyRollup, UsageRecord
from ledger.money import ZERO, units
from ledger.rollups import NAMES, SUMS, Total, move

BATCH = 200
PERIODS = ("day", "month", "total")


def erase(end_user: str, key_ids: Collection[str], *, dry_run: bool = False) -> dict[str, int]:
    """Take the name out of usage rows, daily totals, budgets and alerts; how many of each. No ids: under every key.

    What was captured of their requests is deleted. It may be stopped at any moment and run again. A budget's account
    loses the name and goes on counting.
    """
    mine = {"key_id__in": list(key_ids)} if key_ids else {}
    accounts = BudgetAccount.objects.filter(subject=end_user)
    if key_ids:
        accounts = accounts.filter(budget__in=[f"end_user:{key_id}:{p}" for key_id in key_ids for p in PERIODS])
    alerts = Alert.objects.filter(facts__end_user=end_user)
    if key_ids:
        alerts = alerts.filter(facts__budget__in=list(accounts.values_list("budget", flat=True)))
    alert_ids, account_ids = _ids(alerts), _ids(accounts)
    rows, totals = (_ids(model.objects.filter(end_user=end_user, **mine)) for model in (UsageRecord, DailyRollup))
    found = {"rows": len(rows), "totals": len(totals), "budgets": len(account_ids), "alerts": len(alert_ids)}
    if dry_run:
        return found
    for part in _parts(rows):
        CapturedPayload.objects.filter(pk__in=part).delete()  # what somebody said names them better than any name
        UsageRecord.objects.filter(pk__in=part).update(end_user="")
    for part in _parts(totals):
        _merge(part)
    for part in _parts(alert_ids):
        Alert.objects.filter(pk__in=part).delete()
    for part in _parts(account_ids):
        BudgetAccount.objects.filter(pk__in=part).update(subject="")
    return found


def _ids(rows: QuerySet[Any]) -> list[str]:
    return list(rows.order_by().values_list("pk", flat=True))


def _parts(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), BATCH):
        yield ids[start : start + BATCH]
        time.sleep(PAUSE)


def _merge(ids: list[str]) -> None:
    """Daily totals are found by the names in them: what they add up goes to that of nobody in particular."""
    with transaction.atomic():
        rows = list(DailyRollup.objects.select_for_update().filter(pk__in=ids))
        totals = []
        for row in rows:
            names = {name: getattr(row, name) for name in NAMES} | {"end_user": ""}
            sums = {name: getattr(row, name) for name in SUMS}
            sums = {name: value if isinstance(value, int) else units(value or ZERO) for name, value in sums.items()}
            totals.append(Total(row.day, names, sums))
        move(totals)
        DailyRollup.objects.filter(pk__in=[row.pk for row in rows]).delete()
