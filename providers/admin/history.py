"""The history of the configuration: who changed what and when; for reading only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from providers.admin.readonly import ReadOnlyAdmin
from providers.models import ClientKey, Credential, Issuer, ModelAlias, Provider, Route, Team


class HistoryAdmin(ReadOnlyAdmin):
    """Rows that are gone are found here too."""

    list_display = ("history_date", "actor", "done", "row")
    list_filter = ("history_type", "history_date")
    search_fields = ("id", "actor")
    fields = ("history_date", "actor", "done", "row", "history_change_reason", "changes")
    readonly_fields = fields

    def has_module_permission(self, request: HttpRequest) -> bool:
        """The way here is a row's own history, and not the admin's first page."""
        return False

    @admin.display(description="what", ordering="history_type")
    def done(self, record: Any) -> str:
        # Under a name that no row has: a client key has a kind of its own.
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
