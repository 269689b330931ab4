"""Rows that are committed before the provider is called, and what takes their place."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from msgspec.structs import replace

from ledger import drain, openrows
from ledger.entries import Opened, Settled
from ledger.models import UsageRecord

pytestmark = pytest.mark.django_db

AT = 1_790_000_000.0
OPENED = Opened(id="req_1", at=AT, key="k", key_name="app", endpoint="chat.completions", alias="fast", model="fast")
SETTLED = Settled(id="req_1", at=AT, key="k", key_name="app", alias="fast", outcome="ok", status=200, tokens_in=19)


def refuse(entry: Settled, error: Exception) -> None:
    raise error


def found() -> list[tuple[str, str, int, bool]]:
    return list(UsageRecord.objects.order_by("id").values_list("id", "outcome", "tokens_in", "sent"))


def test_the_settled_line_takes_the_open_rows_place_however_often_it_comes() -> None:
    openrows.commit(OPENED)
    assert found() == [("req_1", "open", 0, True)]
    for _ in range(2):
        openrows.store_each([SETTLED, SETTLED], refuse)
        assert found() == [("req_1", "ok", 19, False)]


def test_an_open_row_never_takes_the_place_of_a_settled_one() -> None:
    drain.store([SETTLED])
    openrows.commit(OPENED)
    assert found() == [("req_1", "ok", 19, False)]


def test_an_open_row_for_which_more_is_set_aside_is_lost_with_all_of_it() -> None:
    for reserved in (Decimal(1), Decimal(2)):
        openrows.commit(replace(OPENED, reserved=reserved))
    openrows.lose(datetime.fromtimestamp(AT, UTC) + timedelta(minutes=21))
    (row,) = UsageRecord.objects.all()
    assert (row.reserved, row.cost) == (Decimal(2), Decimal(2))


def test_a_row_that_stays_open_is_lost_after_twenty_minutes() -> None:
    openrows.commit(OPENED)
    opened = datetime.fromtimestamp(AT, UTC)
    assert openrows.lose(opened + timedelta(minutes=19)) == 0
    assert openrows.lose(opened + timedelta(minutes=21)) == 1
    (row,) = UsageRecord.objects.all()
    assert (row.outcome, row.flagged, row.sent, row.key_name, row.alias) == ("lost", True, True, "app", "fast")


def test_a_line_that_the_database_refuses_does_not_keep_the_others_from_being_settled() -> None:
    openrows.commit(OPENED)
    rejected: list[str] = []
    other = Settled(id="req_2", at=AT, outcome="ok")
    never = Settled(id="req_3", at=float("inf"), outcome="ok")
    openrows.store_each([SETTLED, never, other], lambda entry, error: rejected.append(entry.id))
    assert rejected == ["req_3"]
    assert [(row[0], row[1]) for row in found()] == [("req_1", "ok"), ("req_2", "ok")]
