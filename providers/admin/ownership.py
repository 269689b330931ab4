"""Who owns a row: those of a configuration file are shown and not edited, and so is what lies over the database."""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from simple_history.admin import SimpleHistoryAdmin

from providers import overlay
from providers.configfile import ConfigError
from providers.models import FROM_ADMIN, FROM_FILE, Row

if TYPE_CHECKING:
    WithHistory = admin.ModelAdmin[Any]
else:
    WithHistory = SimpleHistoryAdmin


def is_from_file(obj: Model | None) -> bool:
    return isinstance(obj, Row) and obj.source == FROM_FILE


class HistoryShown(WithHistory):
    """A page a row that says who changed what."""

    history_list_display = ("actor",)

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["providers/admin.css"]}

    def history_form_view(
        self, request: HttpRequest, object_id: str, version_id: str, extra_context: Any = None
    ) -> HttpResponse:
        """A record has a page of its own. The package's would take a POST from who may only look, and write it."""
        if request.method != "GET":
            return HttpResponseNotAllowed(["GET"])
        opts = self.model.history.model._meta
        return redirect(f"admin:{opts.app_label}_{opts.model_name}_change", version_id)


class OwnedAdmin(HistoryShown):
    """Rows of a file are read-only; the changelist begins with what the environment declares."""

    change_list_template = "admin/providers/change_list.html"
    actions: tuple[str, ...] = ("enable", "disable")
    list_per_page = 50
    show_full_result_count = False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and not is_from_file(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not is_from_file(obj)

    def overlay_rows(self, found: overlay.Overlay) -> list[tuple[str, str]]:
        """Name and description of what the environment declares of this kind."""
        return []

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context: dict[str, Any] = {**(extra_context or {})}
        try:
            found = overlay.load()
        except ConfigError as error:
            context["overlay_problems"] = error.problems
        else:
            context["overlay_rows"] = self.overlay_rows(found)
            context["overlay_problems"] = [f"{problem.place} {problem.wrong}" for problem in found.problems]
        return super().changelist_view(request, context)  # type: ignore[return-value]

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> Any:
        if request.method == "GET" and is_from_file(self.get_object(request, object_id)):
            messages.info(request, "This comes from a configuration file: change it there, and import the file again.")
        return super().change_view(request, object_id, *args, **kwargs)

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(description="Disable", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[Any], *, enabled: bool) -> None:
        total = queryset.count()
        mine = queryset.filter(source=FROM_ADMIN)
        rows = list(mine)
        mine.update(enabled=enabled)
        for row in rows:
            self.log_change(request, row, [{"changed": {"fields": ["enabled"]}}])
        self.message_user(request, f"{len(rows)} {'enabled' if enabled else 'disabled'}.", messages.SUCCESS)
        if total > len(rows):
            self.message_user(
                request, f"{total - len(rows)} left alone: they come from a configuration file.", messages.WARNING
            )


class OwnedInline(admin.TabularInline):  # type: ignore[type-arg]
    """Parts of a row are as editable as the row itself."""

    extra = 0

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_add_permission(request, obj) and not is_from_file(obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and not is_from_file(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not is_from_file(obj)
