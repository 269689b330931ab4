"""Client keys: made here, shown once, and then known by their ids."""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django_object_actions import DjangoObjectActions, action

from providers import allowances, overlay, purging, rotation
from providers.admin.ownership import OwnedAdmin
from providers.keyforms import ClientKeyForm
from providers.managers import KeyRefused
from providers.models import ClientKey, settings_of

OVERLAP = timedelta(hours=24)

FACTS = (
    "kind",
    "id",
    "ends_with",
    "foreign",
    "principal",
    "successor",
    "pepper_deadline",
    "reported_at",
    "created_at",
    "source",
)
ALLOWANCES = [
    ("Permissions", {"fields": ("aliases", "endpoints", "default_provider", "max_tokens", "max_n", "cidrs")}),
    (
        "Web pages",
        {"fields": ("origins", "address_rpm", "address_tpm", "address_concurrency"), "classes": ("collapse",)},
    ),
    ("Rate limits", {"fields": tuple(allowances.LIMITS)}),
    ("Response cache", {"fields": ("cache", "cache_ttl"), "classes": ("collapse",)}),
    ("Captured payloads", {"fields": tuple(allowances.CAPTURE), "classes": ("collapse",)}),
    ("Routing details", {"fields": ("may_explain",), "classes": ("collapse",)}),
    ("Budget", {"fields": (*allowances.BUDGET, "unknown_price", "tags")}),
    (
        "Limits per end user",
        {
            "fields": ("end_user_rpm", "end_user_tpm", "end_user_concurrency", "end_user_budget"),
            "classes": ("collapse",),
        },
    ),
]


@admin.register(ClientKey)
class ClientKeyAdmin(DjangoObjectActions, OwnedAdmin):  # type: ignore[misc]
    form = ClientKeyForm
    list_display = ("name", "kind", "public_id", "team", "alias_names", "state", "ends", "made", "source")
    list_filter = ("kind", "enabled", "team", "source")
    list_select_related = ("team",)
    search_fields = ("name", "id", "last_four")
    actions = ("enable", "disable", "revoke", "purge")
    change_actions = ("rotate", "rotate_compromised")
    change_list_template = OwnedAdmin.change_list_template

    def get_fieldsets(self, request: HttpRequest, obj: ClientKey | None = None) -> Any:
        first = ("name", "kind", "team", "expires_at") if obj is None else ("name", "team", "expires_at", "enabled")
        sets: list[Any] = [(None, {"fields": first}), *ALLOWANCES]
        return sets if obj is None else [*sets, ("About this key", {"fields": FACTS})]

    def get_readonly_fields(self, request: HttpRequest, obj: ClientKey | None = None) -> tuple[str, ...]:
        return () if obj is None else FACTS

    @admin.display(description="ends with")
    def ends_with(self, row: ClientKey) -> str:
        return f"…{row.last_four}"

    @admin.display(description="expires (UTC)", ordering="expires_at")
    def ends(self, row: ClientKey) -> str:
        return f"{row.expires_at:%Y-%m-%d %H:%M}" if row.expires_at else "never"

    @admin.display(description="created (UTC)", ordering="created_at")
    def made(self, row: ClientKey) -> str:
        return f"{row.created_at:%Y-%m-%d %H:%M}"

    @admin.display(description="id", ordering="id")
    def public_id(self, row: ClientKey) -> str:
        return f"{row.id} …{row.last_four}"

    @admin.display(description="aliases")
    def alias_names(self, row: ClientKey) -> str:
        return ", ".join(map(str, row.aliases)) or "none"

    @admin.display(description="state")
    def state(self, row: ClientKey) -> str:
        if row.compromised_at or not row.enabled:
            return "compromised" if row.compromised_at else "disabled"
        ends_at = row.ends_at
        if ends_at and ends_at <= timezone.now():
            return "expired"
        if row.reported_at:
            return "reported as leaked"
        return "replaced, still live" if row.successor_id else "live"

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
        made, token = ClientKey.objects.mint(
            obj.name, aliases=obj.aliases, expires_at=obj.expires_at, kind=obj.kind, **given
        )
        # The page's object becomes the row that was made; the token lives as long as this request.
        obj.__dict__.update(made.__dict__)
        request.minted_token = token  # type: ignore[attr-defined]

    def response_add(self, request: HttpRequest, obj: ClientKey, post_url_continue: str | None = None) -> HttpResponse:
        return self._made(request, obj, request.minted_token)  # type: ignore[attr-defined]

    @action(  # type: ignore[untyped-decorator]
        label="Rotate",
        description="Make a new key with the same limits and budget; this one works on for 24 hours",
        methods=("POST",),
        button_type="form",
    )
    def rotate(self, request: HttpRequest, row: ClientKey) -> HttpResponse | None:
        return self._rotate(request, row, compromised=False)

    @action(  # type: ignore[untyped-decorator]
        label="Compromised: replace",
        description="Refuse this key from now on and make a new one; asks first",
        methods=("GET", "POST"),
        button_type="a",
    )
    def rotate_compromised(self, request: HttpRequest, row: ClientKey) -> HttpResponse | None:
        """It cannot be taken back: the button leads to a page that asks, and only that page's form does it."""
        if request.method == "POST" or not self.has_change_permission(request, row):
            return self._rotate(request, row, compromised=True)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Replace the compromised key {row.name}?",
            "opts": self.opts,
            "key": row,
            "media": self.media,
        }
        return TemplateResponse(request, "providers/clientkey_compromised.html", context)

    def _rotate(self, request: HttpRequest, row: ClientKey, *, compromised: bool) -> HttpResponse | None:
        if not self.has_change_permission(request, row):
            self.message_user(request, "You may not rotate this key.", messages.ERROR)
            return None
        try:
            done = rotation.rotate(row.id, overlap=OVERLAP, compromised=compromised, show=lambda _: None)
        except KeyRefused as error:
            self.message_user(request, f"Not rotated: {error}.", messages.ERROR)
            return None
        self.log_change(request, done.old, [{"changed": {"fields": ["successor", "expires_at"]}}])
        if done.token is None:
            text = f"{done.old.name} has a successor already: {done.successor.id}, whose key was shown then."
            self.message_user(request, text, messages.WARNING)
            return None
        return self._made(request, done.successor, done.token)

    def _made(self, request: HttpRequest, obj: ClientKey, token: str) -> HttpResponse:
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "title": "Copy the new key now",
            "opts": self.opts,
            "key": obj,
            "token": token,
            "media": self.media,
        }
        response = TemplateResponse(request, "providers/clientkey_made.html", context)
        response["Cache-Control"] = "no-store"
        return response

    @admin.action(description="Purge cached answers: what the selected keys were answered", permissions=["change"])
    def purge(self, request: HttpRequest, queryset: QuerySet[ClientKey]) -> None:
        rows = list(queryset)
        purging.purge(*(purging.name_of(purging.KEY, row.principal or row.id) for row in rows))
        for row in rows:
            self.log_change(request, row, "Purged its cached answers.")
        self.message_user(request, f"The cached answers of {len(rows)} keys are given no more.", messages.SUCCESS)

    @admin.action(description="Revoke: refuse from now on, for good", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ClientKey]) -> None:
        """A revoked key is disabled and has expired, so that enabling it alone does not bring it back."""
        rows = list(queryset)
        queryset.update(enabled=False, expires_at=timezone.now())
        for row in rows:
            self.log_change(request, row, [{"changed": {"fields": ["enabled", "expires_at"]}}])
        self.message_user(request, f"{len(rows)} revoked.", messages.SUCCESS)
