import csv
import html
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from msgspec.structs import replace

from console import sums
from ledger import drain
from ledger.entries import Settled
from ledger.models import DailyRollup, UsageRecord
from providers.models import ClientKey, Team
from tests.ledger.rows import check_on_postgresql

NOW = datetime(2026, 5, 20, 15, tzinfo=UTC)
D = Decimal
FAILURES = ("upstream_error", "rate_limited", "lost", "truncated")
COLUMNS = {
    "alias": "alias",
    "provider": "provider",
    "model": "upstream_model",
    "key": "key_id",
    "team": "team_id",
    "end_user": "end_user",
}
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def operator() -> Client:
    return signed_in("view_usagerecord")


def signed_in(*permissions: str) -> Client:
    user = User.objects.create_user("operator", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


def request(name: str, *, days: float = 0, **fields: Any) -> Settled:
    values: dict[str, Any] = {
        "at": (NOW - timedelta(days=days)).timestamp(),
        "key": "k1",
        "key_name": "web",
        "alias": "fast",
        "provider": "lab",
        "upstream_model": "small",
        "outcome": "ok",
        "status": 200,
        "tokens_in": 100,
        "tokens_out": 10,
        "cost": D("0.01"),
    }
    return Settled(name, **values | fields)


def busy_month() -> None:
    """300 requests of every kind, with costs that no float holds."""
    made = []
    for number in range(300):
        cost = None if number % 11 == 0 else D(number) * D("0.0000000137")
        outcome = FAILURES[number % 4] if number % 7 == 0 else "client_cancelled" if number % 13 == 0 else "ok"
        made.append(
            request(
                f"r{number}",
                days=number % 30,
                key=f"k{number % 5}",
                key_name=f"app {number % 5}",
                team=f"t{number % 3}" if number % 3 else "",
                team_name=f"team {number % 3}" if number % 3 else "",
                end_user=f"u{number % 17}" if number % 2 else "",
                alias=("fast", "slow", "")[number % 3],
                provider=("lab", "shop")[number % 2],
                upstream_model=("small", "large", "other")[number // 3 % 3],
                outcome=outcome,
                tokens_in=number,
                tokens_out=number // 2,
                tokens_cached=number // 3,
                cost=cost,
                saved=D("0.0000000001") * number if number % 5 == 0 else None,
            )
        )
    drain.store(made)


def page(client: Client, query: str = "") -> str:
    answer = client.get(reverse("usage") + query)
    assert answer.status_code == 200
    return str(answer.content.decode())


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of the table of groups: the name, and the exact values of its cells."""
    table = text[text.index('<div class="table">') :].partition("</table>")[0].partition("</thead>")[2]
    found = {}
    for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL):
        name = re.sub(r"<[^>]*>", "", re.findall(r'<th scope="row">(.*?)</th>', row)[0])
        found[html.unescape(name)] = re.findall(r'<data value="([^"]*)">', row)
    return found


def added(records: list[UsageRecord]) -> list[str]:
    """What a line of the table has to say of these usage rows."""
    cost = sum((one.cost for one in records if one.cost is not None), D(0))
    saved = sum((one.saved for one in records if one.saved is not None), D(0))
    counts = [
        len(records),
        sum(one.outcome in FAILURES for one in records),
        *(sum(getattr(one, name) for one in records) for name in ("tokens_in", "tokens_cached", "tokens_out")),
    ]
    unpriced = sum(one.cost is None for one in records)
    return [f"{cost.normalize():f}", *map(str, counts), f"{saved.normalize():f}", str(unpriced)]


@pytest.mark.parametrize("by", COLUMNS)
def test_each_group_and_the_total_are_what_the_usage_rows_add_up_to(operator: Client, by: str) -> None:
    busy_month()
    records = list(UsageRecord.objects.all())
    groups: dict[str, list[UsageRecord]] = {}
    for record in records:
        groups.setdefault(getattr(record, COLUMNS[by]), []).append(record)
    found = rows_of(page(operator, f"?by={by}"))
    assert found.pop("Total") == added(records)
    told = sorted(groups.values(), key=lambda some: sum((one.cost or D(0) for one in some), D(0)), reverse=True)
    expected = [added(some) for some in told[:10]]
    if len(told) > 10:
        expected.append(added([one for some in told[10:] for one in some]))
    assert list(found.values()) == expected
    assert (f"{len(told) - 10} others" in found) == (len(told) > 10)


def test_a_day_counts_from_midnight_to_midnight_in_utc(operator: Client) -> None:
    midnight = NOW.replace(hour=0).timestamp()
    drain.store(
        [
            request("r1", at=midnight - 6 * 86_400 - 0.001, alias="before"),
            request("r2", at=midnight - 6 * 86_400, alias="first"),
            request("r3", at=midnight + 54_000, alias="last"),
        ]
    )
    assert list(rows_of(page(operator, "?period=7d"))) == ["first", "last", "Total"]
    assert list(rows_of(page(operator, "?period=30d"))) == ["before", "first", "last", "Total"]


@pytest.mark.parametrize(
    ("period", "found"),
    [
        ("month", ["May"]),
        ("last-month", ["April"]),
        ("30d", ["April", "May"]),
        ("90d", ["April", "March", "May"]),
        ("x'--", ["April", "May"]),
    ],
)
def test_a_period_has_its_days_alone(operator: Client, period: str, found: list[str]) -> None:
    for name, day in (("March", 31), ("April", 30), ("May", 1)):
        month = ("March", "April", "May").index(name) + 3
        drain.store([request(name, at=datetime(2026, month, day, 12, tzinfo=UTC).timestamp(), alias=name)])
    assert sorted(rows_of(page(operator, f"?period={period}&by=alias"))) == [*found, "Total"]


def test_every_bar_says_what_it_is(operator: Client) -> None:
    drain.store(
        [
            request("r1", cost=D("0.03"), tokens_in=1200),
            request("r2", alias="slow", outcome="upstream_error", cost=D(0), tokens_out=0),
            request("r3", days=2, cost=D("0.5")),
        ]
    )
    text = page(operator, "?period=7d")
    charts = re.findall(r"<svg class=.*?</svg>", text, re.DOTALL)
    titles = [re.findall(r'<rect class="s.*?<title>(.*?)</title>', chart) for chart in charts]
    assert titles == [
        ["2026-05-18 · fast: $0.5000", "2026-05-20 · fast: $0.0300"],
        ["2026-05-18 · fast: 1", "2026-05-20 · fast: 1", "2026-05-20 · slow: 1"],
        ["2026-05-18 · fast: 110", "2026-05-20 · fast: 1,210", "2026-05-20 · slow: 100"],
        ["2026-05-20 · slow: 1"],
    ]
    assert "<title>2026-05-20: 2</title>" in charts[1]
    assert "<title>2026-05-19: 0</title>" in charts[1]
    described = "Requests from 2026-05-14 to 2026-05-20: 3 in all, most on 2026-05-20: 2. The tables below have all"
    assert described in charts[1]
    assert re.findall(r'<rect class="s(.)" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)">', charts[1]) == [
        ("0", "42.5", "500.0", "5.0", "500.0"),
        ("0", "62.5", "500.0", "5.0", "500.0"),
        ("1", "62.5", "0.0", "5.0", "500.0"),
    ]


def test_beyond_ten_groups_the_others_are_one_and_the_csv_names_all(operator: Client) -> None:
    drain.store([request(f"r{number}", alias=f"a{number:02}", cost=D(number)) for number in range(13)])
    found = rows_of(page(operator))
    assert [*found] == [*(f"a{number:02}" for number in range(12, 2, -1)), "3 others", "Total"]
    assert (found["3 others"][0], found["3 others"][1], found["Total"][0]) == ("3", "3", "78")
    lines = list(csv.DictReader(StringIO(operator.get(reverse("usage_csv")).content.decode())))
    assert [line["alias"] for line in lines] == [f"a{number:02}" for number in range(12, -1, -1)]


def test_the_csv_is_exact_and_has_no_formula(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "LISTED", 2)
    drain.store(
        [
            request("r1", key="k1", key_name="=cmd()", cost=D("0.0000000003"), saved=D("0.25"), tokens_cached=7),
            request("r2", key="k2", key_name="b,c", outcome="lost", cost=None),
            request("r3", key="", key_name="", cost=D(0)),
        ]
    )
    answer = operator.get(reverse("usage_csv") + "?by=key&period=month")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    name = 'attachment; filename="usage-by-key-2026-05-01-2026-05-20.csv"'
    assert (answer.headers["content-disposition"], "no-store" in answer.headers["cache-control"]) == (name, True)
    assert answer.content.decode() == (
        "key_id,key,requests,errors,unpriced,tokens_in,tokens_cached,tokens_out,tokens_reasoning,cost,saved\r\n"
        "k1,'=cmd(),1,0,0,100,7,10,0,0.0000000003,0.25\r\n"
        ",,1,0,0,100,0,10,0,0,0\r\n"
        ",1 other,1,1,1,100,0,10,0,0,0\r\n"
    )


@pytest.mark.parametrize("by", COLUMNS)
def test_a_groups_link_leads_to_its_usage_rows_and_no_others(operator: Client, by: str) -> None:
    busy_month()
    drain.store([request(f"old{number}", days=30 + number) for number in range(3)])
    text = page(operator, f"?by={by}")
    links = re.findall(r'<a href="([^"]*)" title="Its requests">', text)
    counts = [int(values[1]) for name, values in rows_of(text).items() if name != "Total" and "others" not in name]
    found = [operator.get(html.unescape(link)).context["cl"].paginator.count for link in links]
    assert (found, len(found)) == (counts, len(counts))
    assert len(found) >= 2


def test_names_are_those_of_today_and_two_of_one_name_are_told_apart(operator: Client) -> None:
    for key in ("k1", "k2", "k3"):
        ClientKey.objects.create(id=key, name="web" if key < "k3" else "new", pepper_id="p", digest=key.encode() * 16)
    team = Team.objects.create(name="Search")
    names = [("k1", "old"), ("k2", "older"), ("k3", "zzz"), ("k4", "gone")]
    drain.store([request(key, key=key, key_name=name, team=team.pk, team_name="Old") for key, name in names])
    assert [*rows_of(page(operator, "?by=key"))] == ["web (k1)", "web (k2)", "new", "gone", "Total"]
    assert [*rows_of(page(operator, "?by=team"))] == ["Search", "Total"]


def test_whatever_a_name_holds_is_text(operator: Client) -> None:
    hostile = "\"><script>alert(1)</script>{{ x }}&amp;'"
    drain.store([request("r1", end_user=hostile)])
    text = page(operator, "?by=end_user")
    assert [*rows_of(text)] == [hostile, "Total"]
    assert "<script>alert" not in text
    assert " style=" not in text


@pytest.mark.parametrize("by", COLUMNS)
def test_it_takes_the_same_few_queries_whatever_the_number_of_rows(
    operator: Client, by: str, django_assert_num_queries: Callable[[int], Any]
) -> None:
    # session, user, two kinds of permissions; totals, groups, names of keys or teams, days, the days before
    expected = 4 + 4 + (by in ("key", "team"))
    for _ in range(2):
        busy_month()
        with django_assert_num_queries(expected):
            page(operator, f"?by={by}&period=90d")
        with django_assert_num_queries(expected - 2):
            operator.get(reverse("usage_csv") + f"?by={by}&period=90d")


def test_where_nothing_cost_anything_the_most_asked_stands_first(operator: Client) -> None:
    asked = [request("r1", alias="one"), *(request(f"s{number}", alias="three") for number in range(3))]
    drain.store([replace(one, cost=D(0)) for one in asked])
    text = page(operator)
    assert [*rows_of(text)] == ["three", "one", "Total"]
    assert "Share of requests" in text
    assert re.findall(r"<span>(\d+%)</span></td>", text) == ["75%", "25%"]


def test_what_has_no_price_is_said_and_where_to_set_one(operator: Client) -> None:
    drain.store([request("r1", cost=None), request("r2")])
    assert "The price of 1 of these requests is not known" in page(operator)
    UsageRecord.objects.all().delete()
    DailyRollup.objects.all().delete()
    drain.store([request("r2")])
    assert "is not known" not in page(operator)


def test_the_head_compares_with_as_many_days_before(operator: Client) -> None:
    drain.store([request(f"a{n}", days=n, cost=D("1.5")) for n in range(6)])
    drain.store([request(f"b{n}", days=7 + n, cost=D(1)) for n in range(4)])
    text = page(operator, "?period=7d")
    tiles = re.findall(r'class="name">(.*?) <small>(.*?)</small></span><strong>(.*?)</strong>', text)
    assert tiles == [
        ("Cost", "+125%", "$9.0000"),
        ("Requests", "+50%", "6"),
        ("Tokens", "+50%", "660"),
        ("Errors", "", "0"),
        ("Saved by cache", "", "$0"),
    ]
    compared = "The small percentages are against the {} days before."
    assert compared.format(7) in text
    assert compared.format(30) not in page(operator, "?period=30d")


def test_an_empty_ledger_says_what_to_do_and_empty_days_where_to_look() -> None:
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    text = page(root)
    assert "No request has been counted yet" in text
    assert f'<a href="{reverse("admin:providers_clientkey_changelist")}">Client keys</a>' in text
    drain.store([request("r1", days=60)])
    text = page(root, "?period=7d&by=key")
    assert "No requests in these days" in text
    assert '<a href="?period=90d&amp;by=key">' in text
    assert root.get(reverse("usage_csv")).content.decode().count("\r\n") == 1


def test_s18_only_staff_who_may_see_usage_rows_see_it_and_its_link() -> None:
    link = f'<a href="{reverse("usage")}">Usage</a>'
    for name in ("usage", "usage_csv"):
        assert Client().get(reverse(name)).headers["location"].startswith("/admin/login/")
    other = signed_in("view_provider", "view_dailyrollup", "change_clientkey")
    assert [other.get(reverse(name)).status_code for name in ("usage", "usage_csv")] == [403, 403]
    assert link not in other.get(reverse("admin:index")).content.decode()
    User.objects.get().user_permissions.add(Permission.objects.get(codename="view_usagerecord"))
    assert [other.get(reverse(name)).status_code for name in ("usage", "usage_csv")] == [200, 200]
    assert other.get(reverse("admin:index")).content.decode().count(link) == 1
    assert [other.post(reverse(name)).status_code for name in ("usage", "usage_csv")] == [405, 405]


@pytest.mark.postgres
def test_postgresql_passes_all_of_this_too(postgres_url: str) -> None:
    check_on_postgresql(__file__, postgres_url)
