"""End users that are blocked, or whose tokens are at an end."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from providers import audit
from providers.endusers import EndUser

if TYPE_CHECKING:  # generic for the type checker alone
    _ModelAdmin = admin.ModelAdmin[EndUser]
else:
    _ModelAdmin = admin.ModelAdmin


@admin.register(EndUser)
class EndUserAdmin(_ModelAdmin):
    list_display = ("name", "key", "blocked", "tokens_before", "at", "actor")
    list_filter = ("blocked",)
    search_fields = ("name__exact", "key__exact")
    list_per_page = 50
    show_full_result_count = False
    fields = ("name", "key", "blocked", "tokens_before")

    def save_model(self, request: HttpRequest, obj: EndUser, form: Any, change: bool) -> None:
        obj.actor = audit.actor()
        super().save_model(request, obj, form, change)
