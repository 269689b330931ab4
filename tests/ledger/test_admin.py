"""The usage rows in the admin: read only, escaped, and found with a bounded number of queries."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.http import StreamingHttpResponse
from django.test import AsyncClient, Client

from ledger import admin as ledger_admin
from ledger import export
from ledger.models import UsageRecord
from providers.models import ClientKey, ModelAlias

LIST = "/admin/ledger/usagerecord/"
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    return client


def record(name: str, **fields: Any) -> UsageRecord:
    values: dict[str, Any] = {"started_at": NOON, "key_id": "k1", "key_name": "web", "alias": "fast", "outcome": "ok"}
    return UsageRecord.objects.create(id=name, **values | {"status": 200, **fields})


def listed(client: Client, query: str = "") -> list[str]:
    response = client.get(LIST + query)
    assert response.status_code == 200
    return [row.id for row in response.context["cl"].result_list]


def test_the_newest_stand_first(operator: Client) -> None:
    for hours, name in enumerate(["old", "newer", "newest"]):
        record(name, started_at=NOON + timedelta(hours=hours))
    assert listed(operator) == ["newest", "newer", "old"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("?key=k2", ["timeout"]),
        ("?alias=slow", ["lost"]),
        ("?outcome=upstream_timeout", ["timeout"]),
        ("?status=2", ["good"]),
        ("?status=5", ["timeout"]),
        ("?status=0", ["lost"]),
        ("?status=x", ["timeout", "lost", "good"]),
        ("?flagged__exact=1", ["timeout", "lost"]),
        ("?q=good", ["good"]),
        ("?q=goo", []),
        ("?q=k2", ["timeout"]),
        ("?q=K2", []),
    ],
)
def test_filters_and_search_find_exactly(operator: Client, query: str, found: list[str]) -> None:
    ClientKey.objects.create(id="k2", name="batch", pepper_id="p", digest=b"d" * 32, last_four="abcd")
    ModelAlias.objects.create(name="slow")
    record("good")
    record("lost", alias="slow", outcome="lost", status=0, flagged=True)
    record("timeout", key_id="k2", outcome="upstream_timeout", status=504, flagged=True)
    assert listed(operator, query) == found


def test_the_filter_tells_a_key_from_its_successor_of_the_same_name(operator: Client) -> None:
    for name in ("k1", "k2"):
        ClientKey.objects.create(id=name, name="web", pepper_id="p", digest=name.encode() * 16, last_four="abcd")
    record("good")
    assert re.findall(r">(web[^<]*)</a>", operator.get(LIST).content.decode()) == ["web (k1)", "web (k2)"]


def test_the_list_takes_the_same_few_queries_whatever_its_length(
    operator: Client, django_assert_num_queries: Callable[[int], Any]
) -> None:
    for number in range(60):
        record(f"r{number:02}")
    for query in ("", "?p=2", "?key=k1"):
        # session, user, count, rows, keys, aliases
        with django_assert_num_queries(6):
            operator.get(LIST + query)


def test_the_count_stops_at_its_bound(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_admin, "COUNTED", 7)
    for number in range(9):
        record(f"r{number}")
    assert operator.get(LIST).context["cl"].paginator.count == 7


def test_a_row_is_shown_with_its_attempts_as_a_table_and_every_cell_escaped(
    operator: Client, django_assert_num_queries: Callable[[int], Any]
) -> None:
    attempts = [{"provider": "lab", "status": 429}, {"provider": "<script>x</script>", "ms": 12}, "odd"]
    record("r1", attempts=attempts, model="<b>m</b>")
    ContentType.objects.clear_cache()
    # session, user, row, content type
    with django_assert_num_queries(4):
        page = operator.get(f"{LIST}r1/change/").content.decode()
    assert (
        "<table><thead><tr><th>provider</th><th>status</th><th>ms</th></tr></thead>"
        "<tbody><tr><td>lab</td><td>429</td><td></td></tr>"
        "<tr><td>&lt;script&gt;x&lt;/script&gt;</td><td></td><td>12</td></tr></tbody></table>"
    ) in page
    assert "<b>m</b>" not in page
    assert "&lt;b&gt;m&lt;/b&gt;" in page


def test_a_row_without_attempts_says_so(operator: Client) -> None:
    record("r1", duration_ms=1234)
    assert '<div class="readonly">none</div>' in operator.get(f"{LIST}r1/change/").content.decode()
    assert '<td class="field-duration">1.23 s</td>' in operator.get(LIST).content.decode()


def test_nobody_adds_changes_or_deletes_a_row(operator: Client) -> None:
    record("r1")
    assert operator.get(f"{LIST}add/").status_code == 403
    assert operator.get(f"{LIST}r1/delete/").status_code == 403
    assert operator.post(f"{LIST}r1/change/", {"outcome": "lost"}).status_code == 403
    operator.post(LIST, {"action": "delete_selected", "_selected_action": "r1", "post": "yes"})
    assert UsageRecord.objects.get().outcome == "ok"


@pytest.mark.django_db(transaction=True)
async def test_any_number_of_rows_is_exported_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> User:
        for number in range(5):
            record(f"r{number}", cost=Decimal("0.0000001"))
        return User.objects.create_superuser("operator")

    monkeypatch.setattr(export, "PIECE", 2)
    client = AsyncClient()
    await client.aforce_login(await sync_to_async(made)())
    asked = {"action": "export_csv", "select_across": "1", "_selected_action": ["r0"]}
    response = await client.post(LIST, asked)
    assert response["content-disposition"] == 'attachment; filename="usage.csv"'
    pieces = [piece.decode() async for piece in cast("StreamingHttpResponse", response)]
    assert [piece.count("\r\n") for piece in pieces] == [2, 2, 2]
    assert "".join(pieces).count(",0.0000001,") == 5
