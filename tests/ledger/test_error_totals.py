import importlib
from datetime import UTC, datetime
from typing import Any

import pytest
from django.apps import apps

from ledger import drain
from ledger.entries import Settled
from ledger.erasure import erase
from ledger.models import DailyRollup
from tests.ledger.rows import check_on_postgresql

NIGHT = datetime(2026, 5, 4, 23, 59, 59, tzinfo=UTC)
pytestmark = pytest.mark.django_db(transaction=True)


def entry(name: str, outcome: str, **fields: Any) -> Settled:
    return Settled(name, at=NIGHT.timestamp(), key="k1", alias="fast", outcome=outcome, **fields)


def totals() -> list[tuple[str, int, int]]:
    return list(DailyRollup.objects.order_by("end_user").values_list("end_user", "requests", "errors"))


@pytest.mark.parametrize(
    ("outcome", "errors"),
    [("ok", 0), ("client_cancelled", 0), ("truncated", 1), ("rate_limited", 1), ("upstream_error", 1), ("lost", 1)],
)
def test_daily_totals_count_as_errors_what_the_dashboard_does(outcome: str, errors: int) -> None:
    drain.store([entry("r1", outcome)])
    assert totals() == [("", 1, errors)]


def test_errors_stay_in_the_totals_when_a_name_is_erased() -> None:
    drain.store([entry("r1", "lost", end_user="u1"), entry("r2", "lost"), entry("r3", "ok", end_user="u1")])
    erase("u1", [])
    assert totals() == [("", 3, 2)]


def test_the_migration_counts_the_errors_of_the_rows_that_are_there() -> None:
    drain.store([entry(f"r{number}", "lost", end_user=f"u{number % 3}") for number in range(7)])
    drain.store([entry("good", "ok", end_user="u1"), entry("left", "client_cancelled", end_user="u3")])
    expected = [("u0", 3, 3), ("u1", 3, 2), ("u2", 2, 2), ("u3", 1, 0)]
    assert totals() == expected
    DailyRollup.objects.update(errors=0)
    importlib.import_module("ledger.migrations.0007_count_errors").count(apps, None)
    assert totals() == expected


@pytest.mark.postgres
def test_postgresql_passes_all_of_this_too(postgres_url: str) -> None:
    check_on_postgresql(__file__, postgres_url)
