"""Prices to edit; budgets with what is spent, daily totals and alerts to look at."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString

from ledger import enduser_admin, money
from ledger.currentlimits import standings
from ledger.models import Alert, BudgetAccount, DailyRollup, PriceRow
from ledger.priceforms import PriceForm
from providers.admin.cells import two_lines
from providers.admin.history import HistoryAdmin
from providers.admin.ownership import HistoryShown
from providers.admin.readonly import ReadOnlyAdmin


@admin.register(PriceRow)
class PriceRowAdmin(HistoryShown):
    form = PriceForm
    list_display = ("model", "place", "begins", "ends", "rate_input", "rate_cached", "rate_output", "rate_request")
    list_filter = ("provider",)
    search_fields = ("model", "provider", "alias")
    fieldsets = (
        ("Which requests it is for", {"fields": ("provider", "model", "alias", "starts_at", "ends_at")}),
        ("US dollars per million tokens", {"fields": PriceRow.PER_TOKEN}),
        ("US dollars for each request, image or second", {"fields": PriceRow.BESIDE}),
    )

    @admin.display(description="provider", ordering="provider")
    def place(self, row: PriceRow) -> SafeString:
        return two_lines(row.provider or "every provider", f"only through {row.alias}" if row.alias else "")

    @admin.display(description="from (UTC)", ordering="starts_at")
    def begins(self, row: PriceRow) -> str:
        return f"{row.starts_at:%Y-%m-%d %H:%M}"

    @admin.display(description="until (UTC)", ordering="ends_at")
    def ends(self, row: PriceRow) -> str:
        return f"{row.ends_at:%Y-%m-%d %H:%M}" if row.ends_at else "-"

    @admin.display(description="input", ordering="input")
    def rate_input(self, row: PriceRow) -> str:
        return _rate(row.input)

    @admin.display(description="cached input", ordering="cached")
    def rate_cached(self, row: PriceRow) -> str:
        return _rate(row.cached)

    @admin.display(description="output", ordering="output")
    def rate_output(self, row: PriceRow) -> str:
        return _rate(row.output)

    @admin.display(description="per request", ordering="request")
    def rate_request(self, row: PriceRow) -> str:
        return _rate(row.request)


def _rate(rate: Decimal | None) -> str:
    """Without the zeros that the column has behind it."""
    return "-" if rate is None else money.text(rate.normalize())


admin.site.register(PriceRow.history.model, HistoryAdmin)


@admin.register(BudgetAccount)
class BudgetAccountAdmin(ReadOnlyAdmin):
    list_display = ("whose", "user_page", "since", "limit", "spent", "used", "reserved")
    list_filter = ("scope", "period", "starts_on")
    search_fields = ("budget", "subject__exact")
    search_help_text = "A part of the budget's id, such as the id of a key; or an end user's name, whole."
    fields = ("whose", "budget", "user_page", "since", "limit", "spent", "used", "reserved", "alert_at")
    readonly_fields = ("whose", "user_page", "since", "limit", "used")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        _look_up(found.result_list)
        return found

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> BudgetAccount | None:
        row: BudgetAccount | None = super().get_object(request, object_id, from_field)
        if row is not None:
            _look_up([row])
        return row

    @admin.display(description="budget of", ordering="budget")
    def whose(self, row: Any) -> SafeString:
        return two_lines(row.standing.owner or "(deleted)", row.budget)

    @admin.display(description="end user", ordering="subject")
    def user_page(self, row: BudgetAccount) -> SafeString | str:
        return enduser_admin.link(row.subject)

    @admin.display(description="period (UTC)", ordering="starts_on")
    def since(self, row: BudgetAccount) -> str:
        return f"{row.period} from {row.starts_on}" if row.starts_on else row.period

    @admin.display(description="limit (USD)", ordering="amount")
    def limit(self, row: Any) -> str:
        limit = row.standing.limit
        return f"none now; it was {money.text(row.amount)}" if limit is None else money.text(limit)

    @admin.display(description="used")
    def used(self, row: Any) -> str:
        """In percent; more than 100 where calls cost more than their worst case, as hidden reasoning may."""
        spent, limit = row.spent or Decimal(0), row.standing.limit
        if limit is None:
            return "-"
        return f"{spent * 100 / limit:.1f}%" if limit else "100%"


def _look_up(rows: Iterable[BudgetAccount]) -> None:
    accounts: list[Any] = list(rows)
    found = standings(accounts)
    for row in accounts:
        row.standing = found[row.id]


@admin.register(DailyRollup)
class DailyRollupAdmin(ReadOnlyAdmin):
    list_display = ("date", "asker", "user_page", "asked", "calls", "tokens", "price")
    list_filter = ("day", "provider")
    search_fields = ("key_id__exact", "end_user__exact", "alias__exact", "model__exact")
    date_hierarchy = "day"

    def get_urls(self) -> list[Any]:
        return [*enduser_admin.urls, *super().get_urls()]

    @admin.display(description="day (UTC)", ordering="day")
    def date(self, row: DailyRollup) -> str:
        return str(row.day)

    @admin.display(description="key, team", ordering="key_name")
    def asker(self, row: DailyRollup) -> SafeString:
        return two_lines(row.key_name, row.team_name)

    @admin.display(description="alias, answered by", ordering="alias")
    def asked(self, row: DailyRollup) -> SafeString:
        return two_lines(row.alias, ": ".join(filter(None, (row.provider, row.model))))

    @admin.display(description="requests", ordering="requests")
    def calls(self, row: DailyRollup) -> SafeString:
        return two_lines(f"{row.requests:,}", f"{row.errors:,} errors" if row.errors else "")

    @admin.display(description="tokens in/out", ordering="tokens_in")
    def tokens(self, row: DailyRollup) -> str:
        return f"{row.tokens_in:,} / {row.tokens_out:,}"

    @admin.display(description="cost (USD)", ordering="cost")
    def price(self, row: DailyRollup) -> SafeString:
        return two_lines(money.text(row.cost or Decimal(0)), f"{row.unpriced:,} unknown" if row.unpriced else "")

    @admin.display(description="end user", ordering="end_user")
    def user_page(self, row: DailyRollup) -> SafeString | str:
        return enduser_admin.link(row.end_user)


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "kind", "text", "sent_at", "tries")
    list_filter = ("kind",)
