"""The statements that move money in SQL: leases out of budget accounts, and spending out of leases.

Whatever dies, `reserved` of an account is the sum of its leases, and `spent` the sum of the costs of the rows that name
it. Everything blocks, and runs on the SQL thread. Units throughout (ledger.money).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal

import msgspec
from django.db import connection, transaction
from django.db.models import DateTimeField, ExpressionWrapper, F
from django.db.models.functions import Now

from ledger.entries import Settled
from ledger.models import BudgetAccount, Lease, LeaseHolder
from ledger.money import ZERO, dollars, units

SHARE = 20  # a lease is at most a twentieth of what is left, of each process
NOTHING = 2**62  # the parts into which what is left is cut so that none of them is a unit
SWEPT_SECONDS = 60
SWEPT_AT_ONCE = 500


class AccountPlace(msgspec.Struct, frozen=True):
    """One budget in one period, for one end user where it has such; `id` is made of the others."""

    id: str
    budget: str
    scope: str
    subject: str
    period: str
    starts_on: date | None
    amount: int
    alert_at: tuple[int, ...] = ()


def take(
    place: AccountPlace, lease_id: str, holder_id: str, wanted: int, hoped: int, *, in_advance: bool = True
) -> int:
    """Put at least `wanted` more on the lease, or 0 where there is no room; if there is room for all who wait, `hoped`.

    It is a multiple of `wanted`, so that equal requests leave no crumbs. One conditional UPDATE decides. `in_advance`:
    with something for requests that may come.
    """
    with transaction.atomic():
        granted = _granted(place, wanted, hoped, in_advance=in_advance)
        if granted is None and not BudgetAccount.objects.filter(pk=place.id).exists():
            _open(place)
            granted = _granted(place, wanted, hoped, in_advance=in_advance)
        if granted is None:
            return 0
        made, new = Lease.objects.get_or_create(
            id=lease_id,
            defaults={"account_id": place.id, "holder_id": holder_id, "amount": dollars(granted)},
        )
        if not new:
            Lease.objects.filter(pk=made.pk).update(amount=F("amount") + granted)
        return granted


def _granted(place: AccountPlace, wanted: int, hoped: int, *, in_advance: bool) -> int | None:
    """None where the account is not there or has no room."""
    if wanted > place.amount:
        return None
    parts = SHARE * _processes() if in_advance else NOTHING
    quote = connection.ops.quote_name
    table = quote(BudgetAccount._meta.db_table)
    room = "(%s - spent - reserved)"
    # Counted in whole requests: those that wait, as far as there is room, or a twentieth of what is left, shared out
    # among the processes.
    waiting = f"CASE WHEN {room} / %s < %s THEN {room} / %s ELSE %s END"
    share = f"{room} / %s / %s"
    grant = f"(%s * CASE WHEN {waiting} > {share} THEN {waiting} ELSE {share} END)"
    calls = max(1, -(-hoped // wanted))
    for_waiting = [place.amount, wanted, calls, place.amount, wanted, calls]
    for_share = [place.amount, parts, wanted]
    values = [wanted, *for_waiting, *for_share, *for_waiting, *for_share]
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {table} SET amount = %s, alert_at = %s, granted = {grant}, "  # noqa: S608
            f"reserved = reserved + {grant} WHERE id = %s AND spent + reserved + %s <= %s RETURNING granted",
            [place.amount, json.dumps(place.alert_at), *values, *values, place.id, wanted, place.amount],
        )
        found = cursor.fetchone()
    return None if found is None else int(found[0])


def _processes() -> int:
    return max(1, LeaseHolder.objects.filter(seen_at__gte=Now() - timedelta(seconds=SWEPT_SECONDS)).count())


def _open(place: AccountPlace) -> None:
    BudgetAccount.objects.bulk_create(
        [
            BudgetAccount(
                id=place.id,
                budget=place.budget,
                scope=place.scope,
                subject=place.subject,
                period=place.period,
                starts_on=place.starts_on,
                amount=dollars(place.amount),
                alert_at=list(place.alert_at),
            )
        ],
        ignore_conflicts=True,
    )


def give(account_id: str, lease_id: str, amount: int) -> None:
    """Return what is not needed of a lease; nothing where it has been swept, since all of it is returned then."""
    with transaction.atomic():
        if Lease.objects.filter(pk=lease_id).update(amount=F("amount") - amount):
            BudgetAccount.objects.filter(pk=account_id).update(reserved=F("reserved") - amount)


def close(lease_id: str) -> None:
    """End a lease out of which nothing is spent any more: what is on it is returned."""
    with transaction.atomic():
        for lease in Lease.objects.select_for_update().filter(pk=lease_id):
            _return(lease)
            lease.delete()


def beat(holder_id: str, *, seconds: int = 0) -> bool:
    """Say that the holder lives; False where it had been swept, or is new: it holds no leases.

    It is swept so many `seconds` later than others.
    """
    seen_at = ExpressionWrapper(Now() + timedelta(seconds=seconds), DateTimeField())
    if LeaseHolder.objects.filter(pk=holder_id).update(seen_at=seen_at):
        return True
    with transaction.atomic():
        # What was taken between the sweep and now: the holder begins anew and will not come back to it.
        _return_all(holder_id)
        LeaseHolder.objects.bulk_create([LeaseHolder(id=holder_id, seen_at=seen_at)], ignore_conflicts=True)
    return False


def spent(account_ids: Sequence[str]) -> dict[str, Decimal]:
    """US dollars by account; one that nothing was spent of may be missing."""
    return {row.id: row.spent or ZERO for row in BudgetAccount.objects.filter(pk__in=account_ids)}


def sweep() -> int:
    """Return the leases of those who have been silent for 60 s; how many leases."""
    silent = LeaseHolder.objects.filter(seen_at__lt=Now() - timedelta(seconds=SWEPT_SECONDS))
    swept = 0
    for holder_id in list(silent.values_list("pk", flat=True)[:SWEPT_AT_ONCE]):
        with transaction.atomic():
            # Deleted first: of two sweepers, and of a holder that comes back, one has its way.
            deleted, _ = LeaseHolder.objects.filter(
                pk=holder_id, seen_at__lt=Now() - timedelta(seconds=SWEPT_SECONDS)
            ).delete()
            if deleted:
                swept += _return_all(holder_id)
    return swept


def leave(holder_id: str) -> None:
    """The process ends in order: all that it still holds is returned. What it has not drained, it has not spent yet."""
    with transaction.atomic():
        LeaseHolder.objects.filter(pk=holder_id).delete()
        _return_all(holder_id)


def _return_all(holder_id: str) -> int:
    leases = list(Lease.objects.select_for_update().filter(holder_id=holder_id).order_by("account_id"))
    for lease in leases:
        _return(lease)
    Lease.objects.filter(pk__in=[lease.pk for lease in leases]).delete()
    return len(leases)


def _return(lease: Lease) -> None:
    BudgetAccount.objects.filter(pk=lease.account_id).update(reserved=F("reserved") - units(lease.amount or ZERO))


def spend(entries: Iterable[Settled]) -> list[BudgetAccount]:
    """Move the costs of rows that are new into `spent`, out of the leases that held them, in the caller's transaction.

    A lease that was swept holds nothing any more; an account that is gone is not made again. Returns the accounts
    that were moved and want to be told when a threshold is passed.
    """
    costs: dict[str, int] = defaultdict(int)
    held: dict[tuple[str, str], int] = defaultdict(int)
    for entry in entries:
        if entry.charges:
            cost = 0 if entry.cost is None else units(entry.cost)
            for account_id, lease_id, amount in entry.charges:
                costs[account_id] += cost
                held[account_id, lease_id] += amount
    freed: dict[str, int] = defaultdict(int)
    for (account_id, lease_id), amount in sorted(held.items()):
        if amount and Lease.objects.filter(pk=lease_id).update(amount=F("amount") - amount):
            freed[account_id] += amount
    for account_id, spent in sorted(costs.items()):
        if spent or freed[account_id]:
            BudgetAccount.objects.filter(pk=account_id).update(
                spent=F("spent") + spent, reserved=F("reserved") - freed[account_id]
            )
    return [account for account in BudgetAccount.objects.filter(pk__in=list(costs)) if account.alert_at]
