"""Budget accounts, leases and daily totals in SQL: they move with new rows only, and always add up."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.core.management import CommandError, call_command
from django.db.models import Sum
from django.utils import timezone
from msgspec.structs import replace

from ledger import budgets, drain, leases, rollups
from ledger.entries import Settled
from ledger.journal import Journal
from ledger.leases import AccountPlace
from ledger.models import Alert, BudgetAccount, DailyRollup, Lease, LeaseHolder, PriceRow, UsageRecord
from ledger.money import units
from providers.targets import BudgetCard
from tests.ledger.rows import check_on_postgresql

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
D = Decimal
DOLLAR = units(D(1))
CARD = BudgetCard("key:k1", "key", D(1), "day", ())
pytestmark = pytest.mark.django_db(transaction=True)


def place(card: BudgetCard = CARD, subject: str = "") -> AccountPlace:
    return budgets.place_of(card, subject, NOON.timestamp())


def entry(name: str, amount: str | None = "0.01", **fields: Any) -> Settled:
    values: dict[str, Any] = {
        "at": NOON.timestamp(),
        "key": "k1",
        "alias": "fast",
        "provider": "lab",
        "upstream_model": "gpt-4o",
        "outcome": "ok",
        "status": 200,
        "sent": True,
        "usage_source": "provider",
        "tokens_in": 100,
        "tokens_out": 10,
        "cost": None if amount is None else D(amount),
        "price_source": "operator" if amount else "",
    }
    return Settled(name, **{**values, **fields})


def taken(lease_id: str, amount: int, *, hoped: int | None = None, holder: str = "h1") -> int:
    leases.beat(holder)
    return leases.take(place(), lease_id, holder, amount, amount if hoped is None else hoped)


def account() -> BudgetAccount:
    return BudgetAccount.objects.get()


def test_a_lease_is_a_twentieth_of_what_is_left_in_whole_requests() -> None:
    cent = units(D("0.01"))
    assert taken("l1", cent) == 5 * cent
    assert taken("l2", 3 * cent) == 3 * cent
    assert (account().reserved, account().spent) == (D("0.08"), 0)
    leases.beat("h2")
    assert taken("l1", cent) == 2 * cent  # of 0.92, for two processes
    assert Lease.objects.get(pk="l1").amount == D("0.07")
    assert taken("l3", cent, hoped=50 * cent) == 50 * cent
    assert taken("l3", cent, hoped=500 * cent) == 40 * cent  # all that there is
    assert taken("l3", cent) == 0
    assert account().reserved == 1


def test_a_request_larger_than_the_budget_never_passes() -> None:
    assert taken("l1", DOLLAR + 1) == 0
    assert taken("l1", DOLLAR) == DOLLAR
    assert taken("l1", 1) == 0


def test_a_smaller_limit_holds_at_once_and_a_larger_one_too() -> None:
    assert taken("l1", units(D("0.6"))) == units(D("0.6"))
    for amount, found in (("0.5", 0), ("0.7", 0), ("0.9", units(D("0.2")))):
        card = place(with_amount(CARD, amount))
        assert card.id == place().id
        assert leases.take(card, "l1", "h1", units(D("0.2")), 0) == found


def with_amount(card: BudgetCard, amount: str) -> BudgetCard:
    return BudgetCard(card.id, card.scope, D(amount), card.period, card.alert_at)


def test_r46_an_account_that_is_delivered_five_times_is_spent_once() -> None:
    taken("l1", units(D("0.05")))
    settled = entry("r1", "0.02", charges=[(place().id, "l1", units(D("0.02")))])
    assert [drain.store([settled, settled, settled]), *(drain.store([settled]) for _ in range(4))] == [
        ["r1"],
        *([] for _ in range(4)),
    ]
    assert (account().spent, account().reserved) == (D("0.02"), D("0.03"))
    assert Lease.objects.get().amount == D("0.03")
    assert DailyRollup.objects.get().requests == 1
    assert DailyRollup.objects.get().cost == UsageRecord.objects.get().cost == D("0.02")


def test_what_is_rolled_back_has_moved_nothing() -> None:
    taken("l1", units(D("0.05")))
    good = entry("r1", charges=[(place().id, "l1", units(D("0.01")))])
    with pytest.raises(ValueError, match="not a time"):
        drain.store([good, msgspec.structs.replace(good, id="r2", at=1e300)])
    assert (account().spent, account().reserved) == (0, D("0.05"))
    assert not DailyRollup.objects.exists()
    refused: list[str] = []
    drain.store_each([good, msgspec.structs.replace(good, id="r2", at=1e300)], lambda one, _: refused.append(one.id))
    assert (account().spent, refused) == (D("0.01"), ["r2"])


def test_more_than_was_set_aside_is_spent_in_full_and_only_what_was_held_is_freed() -> None:
    taken("l1", units(D("0.05")))
    drain.store([entry("r1", "0.30", charges=[(place().id, "l1", units(D("0.05")))])])
    assert (account().spent, account().reserved) == (D("0.30"), 0)


def test_the_lease_of_a_dead_process_is_swept_once_and_its_rows_are_spent_all_the_same() -> None:
    taken("l1", units(D("0.05")))
    assert leases.sweep() == 0
    LeaseHolder.objects.update(seen_at=timezone.now() - timedelta(seconds=61))
    assert (leases.sweep(), leases.sweep()) == (1, 0)
    assert (account().reserved, Lease.objects.count()) == (0, 0)
    drain.store([entry("r1", "0.04", charges=[(place().id, "l1", units(D("0.04")))])])
    assert (account().spent, account().reserved) == (D("0.04"), 0)
    assert leases.beat("h1") is False
    assert leases.beat("h1") is True


def test_what_a_swept_process_took_before_it_knew_is_returned_when_it_begins_anew() -> None:
    taken("l1", DOLLAR // 2)
    LeaseHolder.objects.update(seen_at=timezone.now() - timedelta(seconds=61))
    assert leases.sweep() == 1
    leases.take(place(), "l1", "h1", DOLLAR // 4, DOLLAR // 4)
    assert account().reserved == D("0.25")
    assert not leases.beat("h1")
    assert (account().reserved, Lease.objects.count()) == (0, 0)
    assert leases.beat("h1")


def test_what_is_given_back_and_what_is_left_at_the_end_is_there_for_others() -> None:
    taken("l1", units(D("0.05")))
    leases.give(place().id, "l1", units(D("0.02")))
    leases.give(place().id, "gone", units(D("0.02")))
    assert account().reserved == Lease.objects.get().amount == D("0.03")
    leases.close("l1")
    assert (account().reserved, Lease.objects.count()) == (0, 0)
    taken("l2", units(D("0.05")))
    leases.leave("h1")
    assert (account().reserved, Lease.objects.count(), LeaseHolder.objects.count()) == (0, 0, 0)


def test_each_end_user_each_month_and_each_day_has_an_account_of_its_own() -> None:
    month, total = BudgetCard("b", "end_user", D(1), "month"), BudgetCard("b", "gateway", D(1), "total")
    assert place(month, "ann").id != place(month, "bob").id
    assert place(month, "ann").starts_on == date(2026, 5, 1)
    assert place(total, "ann").id == place(total, "bob").id
    assert place(total).starts_on is None
    midnight = datetime(2026, 5, 5, tzinfo=UTC).timestamp()
    days = [budgets.place_of(CARD, "", moment).starts_on for moment in (midnight - 0.001, midnight)]
    assert [str(day) for day in days] == ["2026-05-04", "2026-05-05"]


def test_daily_totals_are_what_the_rows_add_up_to() -> None:
    names = [f"r{number}" for number in range(600)]
    entries = [
        entry(name, "0.001" if number % 3 else None, key=f"k{number % 4}", end_user=f"u{number % 5}", at=at)
        for number, name in enumerate(names)
        for at in [NOON.timestamp() + number * 300]
    ]
    for start in range(0, 600, 150):
        drain.store(entries[start : start + 150])
    sums = ("requests", "unpriced", "tokens_in", "tokens_out", "cost")
    found = DailyRollup.objects.aggregate(*(Sum(name) for name in sums))
    assert found == {
        "requests__sum": 600,
        "unpriced__sum": 200,
        "tokens_in__sum": 60_000,
        "tokens_out__sum": 6000,
        "cost__sum": D("0.4"),
    }
    expected: dict[str, int] = {}
    for row in UsageRecord.objects.values():
        key = rollups.place_of(row).id
        expected[key] = expected.get(key, 0) + 1
    assert dict(DailyRollup.objects.values_list("id", "requests")) == expected


def test_a_line_of_an_older_version_becomes_a_row_of_unknown_cost(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.path.open("ab") as file:
        file.write(b'{"t":"done","id":"r1","at":1.5,"key":"k1","outcome":"ok","status":200,"tokens_in":7}\n')
    journal._size = journal.path.stat().st_size
    assert journal.drain() == 1
    row = UsageRecord.objects.get()
    assert (row.tokens_in, row.cost, row.reserved, row.team_id, row.accounts) == (7, None, None, "", [])
    journal.close()


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_reprice_moves_rows_totals_and_budgets_by_the_difference_and_does_it_once() -> None:
    taken("l1", units(D("0.05")))
    charges = [(place().id, "l1", units(D("0.01")))]
    agreed = entry("r3", "0.05", price_source="charge")
    drain.store([entry("r1", charges=charges), entry("r2", None), agreed, entry("r4", "0", sent=False)])
    PriceRow.objects.create(model="gpt-4o", starts_at="2020-01-01T00:00Z", input="100", output="1000")
    dry = json.loads(run("reprice", "--since", "2026-05-04", "--until", "2026-05-05", "--dry-run", "--json"))
    assert dry == {"rows": 4, "changed": 2, "before": "0.01", "after": "0.04", "dry_run": True}
    assert account().spent == D("0.01")
    for changed in (2, 0):
        done = json.loads(run("reprice", "--since", "2026-05-04", "--until", "2026-05-05", "--json"))
        assert (done["rows"], done["changed"]) == (4, changed)
        assert dict(UsageRecord.objects.values_list("id", "cost")) == {
            "r1": D("0.02"),
            "r2": D("0.02"),
            "r3": D("0.05"),
            "r4": D(0),
        }
        assert (account().spent, DailyRollup.objects.get().cost, DailyRollup.objects.get().unpriced) == (
            D("0.02"),
            D("0.09"),
            0,
        )


def test_prune_usage_takes_old_rows_in_small_batches_and_leaves_what_they_add_up_to() -> None:
    drain.store([entry(f"r{number}", at=NOON.timestamp() + number) for number in range(1100)])
    assert json.loads(run("prune_usage", "--before", "2026-05-04T12:17", "--dry-run", "--json"))["rows"] == 1020
    assert run("prune_usage", "--before", "2026-05-04T12:17").startswith("1020 rows")
    assert UsageRecord.objects.count() == 80
    assert DailyRollup.objects.get().requests == 1100
    run("prune_usage", "--before", "2026-05-06", "--rollups")
    assert not UsageRecord.objects.exists()
    assert not DailyRollup.objects.exists()
    with pytest.raises(CommandError, match="no day such as"):
        run("prune_usage", "--before", "soon")


def test_export_usage_writes_a_line_a_row_and_no_formula(tmp_path: Path) -> None:
    drain.store([entry("r1", key_name="=1+1", end_user='a "b"\n'), entry("r2", None, at=NOON.timestamp() + 86_400)])
    lines = run("export_usage").split("\r\n")
    assert lines[0].split(",")[:3] == ["id", "started_at", "key_id"]
    assert len(lines) == 4
    assert lines[1].startswith("r1,2026-05-04T12:00:00+00:00,k1,'=1+1,")
    assert ',"a ""b""\n",' in lines[1]
    assert run("export_usage", "--since", "2026-05-05").count("\r\n") == 2
    target = tmp_path / "usage.csv"
    run("export_usage", "--until", "2026-05-05", "--output", str(target))
    assert target.read_bytes().count(b"\r\n") == 2
    with pytest.raises(CommandError, match="cannot be written"):
        run("export_usage", "--output", str(target))


def test_other_thresholds_hold_for_a_budget_that_has_begun() -> None:
    taken("l1", units(D("0.05")))
    later = budgets.place_of(replace(CARD, alert_at=(10, 50)), "", NOON.timestamp())
    leases.take(later, "l1", "h1", units(D("0.10")), units(D("0.10")))
    drain.store([entry("r1", "0.12", charges=[(place().id, "l1", units(D("0.12")))])])
    assert [alert.facts["percent"] for alert in Alert.objects.all()] == [10]


def test_reprice_charges_no_answer_from_the_cache_and_prices_what_costs_by_the_request() -> None:
    by_request = {"usage_source": "none", "tokens_in": 0, "tokens_out": 0}
    drain.store(
        [
            entry("stale", "0", usage_source="cache"),
            entry("refused", "0", **by_request),
            entry("unknown", None, **by_request),
            entry("charged", "0.03", **by_request),
            entry("by_token", None, upstream_model="other", **by_request),
        ]
    )
    PriceRow.objects.create(model="gpt-4o", starts_at="2020-01-01T00:00Z", input="100", request="0.05")
    PriceRow.objects.create(model="other", starts_at="2020-01-01T00:00Z", input="100")
    run("reprice", "--since", "2026-05-04", "--until", "2026-05-05")
    assert dict(UsageRecord.objects.values_list("id", "cost")) == {
        "stale": D(0),
        "refused": D(0),
        "unknown": D("0.05"),
        "charged": D("0.05"),
        "by_token": None,
    }


def test_daily_totals_go_by_days_in_utc_whatever_the_time_is_written_in() -> None:
    drain.store([entry("r1", at=datetime(2026, 5, 3, 23, tzinfo=UTC).timestamp())])
    run("prune_usage", "--before", "2026-05-04T01:00+14:00", "--rollups")
    assert DailyRollup.objects.count() == 1
    run("prune_usage", "--before", "2026-05-03T14:00-10:00", "--rollups")
    assert not DailyRollup.objects.exists()


@pytest.mark.parametrize("age", ["999999d", "800000d"])
def test_an_age_before_the_calendar_is_refused(age: str) -> None:
    with pytest.raises(CommandError, match=f"{age} is before the calendar begins"):
        run("prune_usage", "--before", age)


def test_a_small_amount_is_exported_in_figures() -> None:
    drain.store([entry("r1", "0.0000000003")])
    assert ",0.0000000003,operator," in run("export_usage")


@pytest.mark.postgres
def test_postgresql_passes_all_of_this_too(postgres_url: str) -> None:
    check_on_postgresql(__file__, postgres_url)
