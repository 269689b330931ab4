"""Providers with their credentials: presets to begin with, and a button that tries one out."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django_object_actions import DjangoObjectActions, action

from providers import cards, overlay, probing, references
from providers.addresses import AddressError
from providers.admin.ownership import OwnedAdmin, OwnedInline
from providers.forms import CredentialForm, CredentialFormSet, ProviderForm
from providers.models import Credential, Provider
from providers.presets import Preset, presets
from providers.targets import CredentialCard
from providers.vault import VaultError

SHOWN_CHARS = 500


class CredentialInline(OwnedInline):
    model = Credential
    form = CredentialForm
    formset = CredentialFormSet
    fields = ("name", "secret", "reference", "state", "enabled")
    readonly_fields = ("state",)
    verbose_name_plural = "credentials"

    def get_extra(self, request: HttpRequest, obj: Provider | None = None, **kwargs: Any) -> int:
        return 0 if obj and obj.credentials.exists() else 1

    @admin.display(description="state")
    def state(self, row: Credential) -> str:
        return state_of(row)


def state_of(row: Credential) -> str:
    """What can be said of a credential without showing it."""
    if not row.reference and not row.sealed:
        return "-"
    try:
        row.unseal()
    except references.BadReference as error:
        return str(error)
    except (VaultError, AddressError):
        return f"{_hinted(row)}, decrypts: no. Enter the key again."
    return f"read from {row.reference}" if row.reference else f"{_hinted(row)}, decrypts: yes"


def _hinted(row: Credential) -> str:
    return f"…{row.hint}" if row.hint else "stored"


@admin.register(Provider)
class ProviderAdmin(DjangoObjectActions, OwnedAdmin):  # type: ignore[misc]
    form = ProviderForm
    inlines = (CredentialInline,)
    change_form_template = "admin/providers/provider/change_form.html"
    change_list_template = OwnedAdmin.change_list_template
    list_display = ("name", "dialect_name", "base_url", "credential_names", "enabled", "source")
    list_filter = ("enabled", "source", "dialect")
    search_fields = ("name", "base_url")
    change_actions = ("test_upstream",)
    fieldsets = (
        (None, {"fields": ("name", "dialect", "base_url", "enabled")}),
        ("Details", {"fields": ("options", "quirks", "timeouts")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        return super().get_queryset(request).prefetch_related("credentials")

    @admin.display(description="dialect", ordering="dialect")
    def dialect_name(self, row: Provider) -> str:
        return row.dialect

    @admin.display(description="credentials")
    def credential_names(self, row: Provider) -> str:
        return ", ".join(item.name if item.enabled else f"{item.name} (off)" for item in row.credentials.all()) or "-"

    def overlay_rows(self, found: overlay.Overlay) -> list[tuple[str, str]]:
        return [
            (card.name, f"{card.dialect} {card.base_url}".strip() + ("" if card.enabled else ", off"))
            for card in found.providers
        ]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        preset = _chosen(request)
        if preset is None:
            return {}
        return {
            "name": preset.name,
            "dialect": preset.dialect,
            "base_url": preset.base_url,
            "options": dict(preset.options),
            "quirks": dict(preset.quirks),
            "timeouts": dict(preset.timeouts),
        }

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        context = {**(extra_context or {}), "presets": presets().values(), "preset": _chosen(request)}
        return super().add_view(request, form_url, context)

    @action(  # type: ignore[untyped-decorator]
        label="Test upstream",
        description="Make one cheap call with the first credential, and show what the provider says",
        methods=("POST",),
        button_type="form",
    )
    def test_upstream(self, request: HttpRequest, row: Provider) -> None:
        if not self.has_view_or_change_permission(request, row):
            self.message_user(request, "You may not test providers.", messages.ERROR)
            return
        credentials: list[CredentialCard] = []
        for item in (item for item in row.credentials.all() if item.enabled):
            try:
                credentials.append(cards.credential_card(item))
            except cards.BadRow as error:
                self.message_user(request, f"Left out: {error}.", messages.WARNING)
        try:
            card = cards.provider_card(row, credentials, broken=False)
        except cards.BadRow as error:
            self.message_user(request, f"{row.name} cannot be tested: {error}.", messages.ERROR)
            return
        if not credentials and row.credentials.exists():
            self.message_user(request, f"{row.name} cannot be tested: none of its credentials works.", messages.ERROR)
            return
        result = probing.probe(card)
        said = " ".join(result.text.split())[:SHOWN_CHARS]
        status = f"status {result.status}" if result.status else "no answer"
        verdict = "works" if result.ok else "does not work"
        name = f"{row.name} with {credentials[0].name}" if credentials else row.name
        text = f"{name} {verdict}: {status} after {result.milliseconds} ms. {said}"
        self.message_user(request, text, messages.SUCCESS if result.ok else messages.ERROR)


def _chosen(request: HttpRequest) -> Preset | None:
    return presets().get(request.GET.get("preset", ""))
