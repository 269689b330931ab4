"""End users that are blocked, or whose tokens are at an end."""

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpRequest

from providers import audit, overlay
from providers.configfile import ConfigError
from providers.endusers import EndUser
from providers.models import ClientKey

if TYPE_CHECKING:  # generic for the type checker alone
    _ModelAdmin = admin.ModelAdmin[EndUser]
else:
    _ModelAdmin = admin.ModelAdmin


class EndUserForm(forms.ModelForm):  # type: ignore[type-arg]
    def clean_key(self) -> str:
        """A mistyped id would block nobody; that of a key which is gone since may stay."""
        key: str = self.cleaned_data["key"]
        if key and key != self.initial.get("key") and not _is_known(key):
            raise ValidationError(f"There is no key with the id {key}: the list of client keys has them.")
        return key


def _is_known(key: str) -> bool:
    if ClientKey.objects.filter(Q(pk=key) | Q(principal=key)).exists():
        return True
    try:
        return any(key in (card.id, card.principal) for card in overlay.load().keys)
    except ConfigError:
        return False


@admin.register(EndUser)
class EndUserAdmin(_ModelAdmin):
    form = EndUserForm
    list_display = ("name", "key", "blocked", "tokens_before", "at", "actor")
    list_filter = ("blocked",)
    search_fields = ("name__exact", "key__exact")
    list_per_page = 50
    show_full_result_count = False
    fields = ("name", "key", "blocked", "tokens_before")

    def save_model(self, request: HttpRequest, obj: EndUser, form: Any, change: bool) -> None:
        obj.actor = audit.actor()
        super().save_model(request, obj, form, change)
