"""Model aliases with their routes."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from providers import allowances, overlay, purging
from providers.admin.ownership import OwnedAdmin, OwnedInline
from providers.forms import AliasForm, RouteForm, RouteFormSet
from providers.models import ModelAlias, Route


class RouteInline(OwnedInline):
    model = Route
    form = RouteForm
    formset = RouteFormSet
    fields = ("position", "provider", "model", "weight")

    def get_extra(self, request: HttpRequest, obj: ModelAlias | None = None, **kwargs: Any) -> int:
        return 1 if obj and obj.routes.exists() else 2


@admin.register(ModelAlias)
class ModelAliasAdmin(OwnedAdmin):
    form = AliasForm
    inlines = (RouteInline,)
    list_display = ("name", "routes_in_short", "strategy", "enabled", "source")
    list_filter = ("enabled", "source", "strategy")
    actions = ("enable", "disable", "purge", "purge_all")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name", "strategy", "enabled")}),
        # Folded: the routes below are what an alias is made for.
        ("Adapters", {"fields": ("adapters",), "classes": ("collapse",)}),
        ("Rate limits of all its callers together", {"fields": tuple(allowances.LIMITS), "classes": ("collapse",)}),
        ("Response cache", {"fields": tuple(allowances.CACHE), "classes": ("collapse",)}),
        ("Captured payloads", {"fields": tuple(allowances.CAPTURE), "classes": ("collapse",)}),
        ("When things take long", {"fields": ("retry_after_timeout", "early_200"), "classes": ("collapse",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelAlias]:
        return super().get_queryset(request).prefetch_related("routes__provider")

    @admin.action(description="Purge cached answers: of the selected aliases", permissions=["change"])
    def purge(self, request: HttpRequest, queryset: QuerySet[ModelAlias]) -> None:
        rows = list(queryset)
        purging.purge(*(purging.name_of(purging.ALIAS, row.id) for row in rows))
        for row in rows:
            self.log_change(request, row, "Purged its cached answers.")
        names = ", ".join(row.name for row in rows)
        self.message_user(request, f"The cached answers of {names} are given no more.", messages.SUCCESS)

    @admin.action(description="Purge cached answers: all of them, whatever is selected", permissions=["change"])
    def purge_all(self, request: HttpRequest, queryset: QuerySet[ModelAlias]) -> None:
        purging.purge(purging.ALL)
        self.message_user(request, "No cached answer from before now is given any more.", messages.SUCCESS)

    @admin.display(description="routes")
    def routes_in_short(self, row: ModelAlias) -> str:
        weighted = row.strategy == ModelAlias.WEIGHTED
        routes = [f"{route}{f' ×{route.weight}' if weighted else ''}" for route in row.routes.all()]
        return (", " if weighted else ", then ").join(route.removesuffix(":") for route in routes) or "none"

    def overlay_rows(self, found: overlay.Overlay) -> list[tuple[str, str]]:
        names = {card.id: card.name for card in found.providers}
        return [
            (
                card.name,
                ", ".join(f"{names[route.provider_id]}:{route.model}".removesuffix(":") for route in card.routes),
            )
            for card in found.aliases
        ]
