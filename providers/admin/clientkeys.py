"""Client keys: made here, shown once, and then known by their ids."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from providers import allowances, overlay
from providers.admin.ownership import OwnedAdmin
from providers.keyforms import ClientKeyForm
from providers.models import ClientKey, settings_of

FACTS = ("id", "ends_with", "foreign", "created_at", "source")
ALLOWANCES = [
    ("What it may ask for", {"fields": ("aliases", "endpoints", "max_tokens", "max_n", "cidrs")}),
    ("Limits", {"fields": tuple(allowances.LIMITS)}),
    ("Money", {"fields": (*allowances.BUDGET, "unknown_price", "tags")}),
    (
        "Each end user",
        {
            "fields": ("end_user_rpm", "end_user_tpm", "end_user_concurrency", "end_user_budget"),
            "classes": ("collapse",),
        },
    ),
]


@admin.register(ClientKey)
class ClientKeyAdmin(OwnedAdmin):
    form = ClientKeyForm
    list_display = ("name", "public_id", "team", "alias_names", "state", "expires_at", "created_at", "source")
    list_filter = ("enabled", "team", "source")
    list_select_related = ("team",)
    search_fields = ("name", "id", "last_four")
    actions = ("enable", "disable", "revoke")

    def get_fieldsets(self, request: HttpRequest, obj: ClientKey | None = None) -> Any:
        first = ("name", "team", "expires_at") if obj is None else ("name", "team", "expires_at", "enabled")
        sets: list[Any] = [(None, {"fields": first}), *ALLOWANCES]
        return sets if obj is None else [*sets, ("The key itself", {"fields": FACTS})]

    def get_readonly_fields(self, request: HttpRequest, obj: ClientKey | None = None) -> tuple[str, ...]:
        return () if obj is None else FACTS

    @admin.display(description="ends with")
    def ends_with(self, row: ClientKey) -> str:
        return f"…{row.last_four}"

    @admin.display(description="id", ordering="id")
    def public_id(self, row: ClientKey) -> str:
        return f"{row.id} …{row.last_four}"

    @admin.display(description="aliases")
    def alias_names(self, row: ClientKey) -> str:
        return ", ".join(map(str, row.aliases)) or "none"

    @admin.display(description="state")
    def state(self, row: ClientKey) -> str:
        if not row.enabled:
            return "disabled"
        return "expired" if row.expires_at and row.expires_at <= timezone.now() else "live"

    def overlay_rows(self, found: overlay.Overlay) -> list[tuple[str, str]]:
        return [(card.name, ", ".join(card.aliases) + ("" if card.enabled else ", disabled")) for card in found.keys]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        # Whatever the button, the next page is the one that shows the key.
        only_save = {"show_save_and_continue": False, "show_save_and_add_another": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **only_save})

    def save_model(self, request: HttpRequest, obj: ClientKey, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            return
        given = {**settings_of(obj, allowances.KEY), "team": obj.team}
        made, token = ClientKey.objects.mint(obj.name, aliases=obj.aliases, expires_at=obj.expires_at, **given)
        # The page's object becomes the row that was made; the token lives as long as this request.
        obj.__dict__.update(made.__dict__)
        request.minted_token = token  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ClientKey, post_url_continue: str | None = None) -> HttpResponse:
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key now",
            "opts": self.opts,
            "key": obj,
            "token": request.minted_token,  # type: ignore[attr-defined]
            "media": self.media,
        }
        response = TemplateResponse(request, "providers/clientkey_made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Revoke: refuse from now on, for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ClientKey]) -> None:
        """A revoked key is disabled and has expired, so that enabling it alone does not bring it back."""
        rows = list(queryset)
        queryset.update(enabled=False, expires_at=timezone.now())
        for row in rows:
            self.log_change(request, row, [{"changed": {"fields": ["enabled", "expires_at"]}}])
        self.message_user(request, f"{len(rows)} revoked.", messages.SUCCESS)
