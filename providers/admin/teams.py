"""Teams: client keys that share limits and a budget."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest

from providers import allowances, overlay
from providers.admin.ownership import OwnedAdmin
from providers.keyforms import TeamForm
from providers.models import Team


@admin.register(Team)
class TeamAdmin(OwnedAdmin):
    form = TeamForm
    list_display = ("name", "key_count", "rpm", "tpm", "budget", "enabled", "source")
    list_filter = ("enabled", "source")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": ("name", "enabled")}),
        ("Rate limits of all its keys together", {"fields": tuple(allowances.LIMITS)}),
        ("Budget of all its keys together", {"fields": tuple(allowances.BUDGET)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Team]:
        rows: QuerySet[Team] = super().get_queryset(request).annotate(key_count=Count("keys"))
        return rows

    @admin.display(description="keys", ordering="key_count")
    def key_count(self, row: Any) -> int:
        return int(row.key_count)

    def overlay_rows(self, found: overlay.Overlay) -> list[tuple[str, str]]:
        teams = {card.team.name: card.team for card in found.keys if card.team is not None}
        return [(name, "" if teams[name].enabled else "disabled") for name in sorted(teams)]
