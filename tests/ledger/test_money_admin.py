"""The pages of prices and budgets: what a price may name, and the limit that holds now."""

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from ledger.budgets import place_of
from ledger.leases import _open as open_account
from ledger.models import BudgetAccount, PriceRow
from providers.allowances import budgets_of
from providers.models import ClientKey, ModelAlias, Provider, Team
from providers.rotation import rotate

ADD = "/admin/ledger/pricerow/add/"
ACCOUNTS = "/admin/ledger/budgetaccount/"
PRICE = {"model": "*", "starts_at_0": "2026-01-01", "starts_at_1": "00:00", "input": "2"}
pytestmark = pytest.mark.django_db


def account(text: str, scope: str, owner: str = "", subject: str = "", *, days_ago: int = 0) -> BudgetAccount:
    """The account of a budget as a first request opened it, with 3 dollars spent."""
    (card,) = budgets_of(text, [], scope, owner)
    place = place_of(card, subject, (timezone.now() - timedelta(days=days_ago)).timestamp())
    open_account(place)
    BudgetAccount.objects.filter(pk=place.id).update(spent=Decimal(3))
    return BudgetAccount.objects.get(pk=place.id)


def cells(client: Client, *names: str) -> list[tuple[str, ...]]:
    """Those columns of the list of accounts, a tuple a row, without tags."""
    text = client.get(ACCOUNTS).content.decode()
    found = [re.findall(rf'<t[dh] class="field-{name}[^"]*">(.*?)</t[dh]>', text) for name in names]
    plain = [[re.sub("<[^>]+>", " ", cell).strip() for cell in column] for column in found]
    return sorted(zip(*plain, strict=True))


def errors(response: Any) -> dict[str, list[str]]:
    return dict(response.context["adminform"].form.errors)


def test_a_price_names_a_provider_that_there_is(admin_client: Client, settings: Settings) -> None:
    Provider.objects.create(name="mistral", base_url="https://api.mistral.ai/v1")
    settings.OPENAI_SERVER_URL = "https://api.openai.com"
    said = errors(admin_client.post(ADD, {**PRICE, "provider": "mistrall"}))
    assert said == {"provider": ["There is no provider mistrall; there are mistral, openai-server."]}
    for name in ("mistral", "openai-server", ""):
        assert admin_client.post(ADD, {**PRICE, "provider": name}).status_code == 302
    assert sorted(PriceRow.objects.values_list("provider", flat=True)) == ["", "mistral", "openai-server"]


def test_a_price_names_an_alias_that_there_is(admin_client: Client) -> None:
    said = errors(admin_client.post(ADD, {**PRICE, "alias": "fast"}))
    assert said == {"alias": ["There is no alias fast; there are none."]}
    ModelAlias.objects.create(name="fast")
    assert admin_client.post(ADD, {**PRICE, "alias": "fast"}).status_code == 302


def test_a_price_of_a_provider_that_is_gone_since_can_still_be_ended(admin_client: Client) -> None:
    row = PriceRow.objects.create(provider="gone", input=Decimal(1))
    form = {**PRICE, "provider": "gone", "ends_at_0": "2026-02-01", "ends_at_1": "00:00"}
    assert admin_client.post(f"/admin/ledger/pricerow/{row.pk}/change/", form).status_code == 302
    assert PriceRow.objects.get().ends_at is not None


def test_an_account_shows_the_limit_that_holds_now_and_not_the_one_of_its_last_lease(admin_client: Client) -> None:
    key, _ = ClientKey.objects.mint("app", budget="5.00/month", end_user_budget="1/day")
    team = Team.objects.create(name="Web", budget="100/total")
    account("5.00/month", "key", key.id)
    account("1/day", "end_user", key.id, "anna")
    account("100/total", "team", team.id)
    ClientKey.objects.filter(pk=key.id).update(budget="12/month", end_user_budget="6/day")
    Team.objects.filter(pk=team.id).update(budget="30/total")
    assert cells(admin_client, "whose", "limit", "used") == [
        (f"Web  team:{team.id}:total", "30", "10.0%"),
        (f"app  end_user:{key.id}:day", "6", "50.0%"),
        (f"app  key:{key.id}:month", "12", "25.0%"),
    ]
    row = BudgetAccount.objects.get(scope="key")
    shown = admin_client.get(f"{ACCOUNTS}{row.pk}/change/").content.decode()
    assert '<div class="readonly">12</div>' in shown
    page = admin_client.get("/admin/ledger/dailyrollup/end-user/?name=anna").content.decode()
    assert "<td>6</td><td>3</td>" in page


def test_of_a_rotated_key_the_successor_says_what_holds(admin_client: Client) -> None:
    key, _ = ClientKey.objects.mint("app", budget="5.00/month")
    account("5.00/month", "key", key.id)
    new = rotate(key.id, overlap=timedelta(hours=1), show=lambda _: None).successor
    ClientKey.objects.filter(pk=new.id).update(budget="10/month")
    assert cells(admin_client, "limit", "used") == [("10", "30.0%")]


def test_an_account_without_a_budget_and_one_of_a_period_that_is_over_say_so(admin_client: Client) -> None:
    key, _ = ClientKey.objects.mint("app", budget="5/month")
    account("4/day", "key", key.id)
    account("2/month", "key", key.id, days_ago=40)
    account("7/month", "key", "gone")
    assert cells(admin_client, "whose", "limit", "used") == [
        ("(deleted)  key:gone:month", "none now; it was 7", "-"),
        (f"app  key:{key.id}:day", "none now; it was 4", "-"),
        (f"app  key:{key.id}:month", "2", "150.0%"),
    ]


def test_limits_of_the_environment_hold_too(admin_client: Client, settings: Settings, tmp_path: Path) -> None:
    settings.GATEWAY_BUDGET = "50/month"
    account("40/month", "gateway")
    assert cells(admin_client, "whose", "limit", "used") == [("the gateway  gateway:month", "50", "6.0%")]
    # A file that cannot be read leaves the page as it is.
    settings.GATEWAY_CONFIG = str(tmp_path / "gone.yaml")
    assert cells(admin_client, "limit", "used") == [("none now; it was 40", "-")]


def test_the_list_of_accounts_takes_the_same_few_queries_whatever_its_length(
    admin_client: Client, django_assert_num_queries: Any
) -> None:
    for number in range(20):
        key, _ = ClientKey.objects.mint(f"app{number}", budget="5/month")
        account("5/month", "key", key.id)
    admin_client.get(ACCOUNTS)
    # session, user, two filters, count, rows, teams, keys
    with django_assert_num_queries(8):
        admin_client.get(ACCOUNTS)
