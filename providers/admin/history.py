"""The history of the configuration: who changed what and when; for reading only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from providers.models import ClientKey, Credential, Issuer, ModelAlias, Provider, Route, Team


class HistoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows that are gone are found here too."""

    list_display = ("history_date", "actor", "kind", "row")
    list_filter = ("history_type", "history_date")
    search_fields = ("id", "actor")
    list_per_page = 50
    show_full_result_count = False
    fields = ("history_date", "actor", "kind", "row", "history_change_reason", "changes")
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="what", ordering="history_type")
    def kind(self, record: Any) -> str:
        return {"+": "made", "~": "changed", "-": "deleted"}.get(record.history_type, "")

    @admin.display(description="row")
    def row(self, record: Any) -> str:
        return f"{getattr(record, 'name', '') or getattr(record, 'model', '')} ({record.id})"

    @admin.display(description="changes")
    def changes(self, record: Any) -> SafeString | str:
        before = record.prev_record
        if before is None:
            return "-"
        found = record.diff_against(before).changes
        return format_html_join("\n", "<div>{}: {} → {}</div>", ((item.field, item.old, item.new) for item in found))


for model in (Provider, Credential, ModelAlias, Route, Team, ClientKey, Issuer):
    admin.site.register(model.history.model, HistoryAdmin)
