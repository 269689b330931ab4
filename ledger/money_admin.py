"""Prices to edit; budgets with what is spent, daily totals and alerts to look at."""

from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.utils.safestring import SafeString

from ledger import enduser_admin
from ledger.models import Alert, BudgetAccount, DailyRollup, PriceRow
from providers.admin.history import HistoryAdmin
from providers.admin.ownership import HistoryShown
from providers.admin.readonly import ReadOnlyAdmin


@admin.register(PriceRow)
class PriceRowAdmin(HistoryShown):
    list_display = ("model", "provider", "alias", "starts_at", "ends_at", "input", "cached", "output", "request")
    list_filter = ("provider",)
    search_fields = ("model", "provider", "alias")
    fieldsets = (
        ("Where it holds", {"fields": ("provider", "model", "alias", "starts_at", "ends_at")}),
        ("US dollars per million tokens", {"fields": PriceRow.PER_TOKEN}),
        ("US dollars beside tokens", {"fields": PriceRow.BESIDE}),
    )


admin.site.register(PriceRow.history.model, HistoryAdmin)


@admin.register(BudgetAccount)
class BudgetAccountAdmin(ReadOnlyAdmin):
    list_display = ("budget", "scope", "subject", "period", "starts_on", "amount", "spent", "reserved", "used")
    list_filter = ("scope", "period", "starts_on")
    search_fields = ("budget", "subject__exact")
    fields = ("budget", "scope", "subject", "period", "starts_on", "amount", "spent", "reserved", "used", "alert_at")
    readonly_fields = ("used",)

    @admin.display(description="used")
    def used(self, row: BudgetAccount) -> str:
        """In percent; more than 100 where calls cost more than their worst case, as hidden reasoning may."""
        spent, amount = row.spent or Decimal(0), row.amount or Decimal(0)
        return f"{spent * 100 / amount:.1f}%" if amount else "100%"


@admin.register(DailyRollup)
class DailyRollupAdmin(ReadOnlyAdmin):
    list_display = (
        *("day", "key_name", "team_name", "user_page", "alias", "provider", "model"),
        *("requests", "errors", "unpriced", "tokens_in", "tokens_out", "cost"),
    )
    list_filter = ("day", "provider")
    search_fields = ("key_id__exact", "end_user__exact", "alias__exact", "model__exact")
    date_hierarchy = "day"

    def get_urls(self) -> list[Any]:
        return [*enduser_admin.urls, *super().get_urls()]

    @admin.display(description="end user", ordering="end_user")
    def user_page(self, row: DailyRollup) -> SafeString | str:
        return enduser_admin.link(row.end_user)


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "kind", "text", "sent_at", "tries")
    list_filter = ("kind",)
