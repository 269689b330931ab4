"""The lists of usage and money on a usual screen: the last column is seen without scrolling to the side."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from playwright.sync_api import Route, sync_playwright

from ledger.budgets import place_of
from ledger.leases import _open as open_account
from ledger.models import DailyRollup, PriceRow, UsageRecord
from providers.allowances import budgets_of
from providers.models import ClientKey

ROOT = "http://gateway.test"
KEY, ALIAS, PROVIDER, MODEL = "customer-support-widget", "gpt-4o-mini-2024-07-18", "azure-westeurope", "mistral-large-x"
NAMES = {"key_name": KEY, "alias": ALIAS, "provider": PROVIDER}
DAY = datetime(2026, 11, 27, 12, tzinfo=UTC)


def make_rows() -> None:
    UsageRecord.objects.create(
        **{"id": "r1", "started_at": DAY, "upstream_model": MODEL, "cost": Decimal("0.0123456789"), **NAMES},
        tokens_in=123_456,
        tokens_out=12_345,
        duration_ms=123_456,
        outcome="upstream_unreachable",
        status=502,
        flagged=True,
    )
    DailyRollup.objects.create(
        **{"id": "d1", "day": DAY.date(), "model": MODEL, "team_name": "Web", "end_user": "user-4711", **NAMES},
        requests=12_345,
        unpriced=3,
        cost=Decimal("12.3456789"),
        tokens_in=12_345_678,
        tokens_out=1_234_567,
    )
    PriceRow.objects.create(model=ALIAS, provider=PROVIDER, alias=ALIAS, ends_at=DAY, input=Decimal("0.15"))
    row, _ = ClientKey.objects.mint(KEY, budget="100/month", expires_at=DAY)
    (card,) = budgets_of(row.budget, [], "key", row.id)
    open_account(place_of(card, "", DAY.timestamp()))


@pytest.mark.browser
@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    [
        *("/admin/ledger/usagerecord/", "/admin/ledger/dailyrollup/", "/admin/ledger/budgetaccount/"),
        *("/admin/ledger/pricerow/", "/admin/providers/clientkey/"),
    ],
)
def test_all_columns_of_a_list_are_seen_at_1280_pixels(path: str, chromium: str) -> None:
    make_rows()
    operator = Client()
    operator.force_login(User.objects.create_superuser("operator"))
    page_text = operator.get(path).content.decode()

    def answer(route: Route) -> None:
        asked = route.request.url.removeprefix(ROOT)
        found = finders.find(asked.removeprefix("/static/")) if asked.startswith("/static/") else None
        if asked == path:
            route.fulfill(body=page_text, content_type="text/html")
        elif found:
            route.fulfill(path=str(found))
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.route("**/*", answer)
        page.goto(ROOT + path)
        table = page.locator("#changelist-form .results")
        widths = table.evaluate("(box) => [box.scrollWidth, box.clientWidth, box.querySelectorAll('tbody tr').length]")
        browser.close()
    assert widths == [widths[1], widths[1], 1]
