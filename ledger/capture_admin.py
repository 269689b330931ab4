"""Captured payloads in the admin: a list of what is kept, each opened by name only, and who has opened what."""

from typing import TYPE_CHECKING, Any, ClassVar

import structlog
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from ledger import capture
from ledger.models import CapturedPayload, PayloadView
from providers import callers
from providers.vault import VaultError

if TYPE_CHECKING:  # generic for the type checker alone
    _PayloadAdmin = admin.ModelAdmin[CapturedPayload]
    _ViewAdmin = admin.ModelAdmin[PayloadView]
else:
    _PayloadAdmin = _ViewAdmin = admin.ModelAdmin

log = structlog.get_logger("capture")

OPEN = "ledger.open_capturedpayload"


@admin.register(CapturedPayload)
class CapturedPayloadAdmin(_PayloadAdmin):
    """Nothing of a payload is in the list; its page opens it, for those who may, and that is on record."""

    list_display = (
        "at",
        "key_name",
        "alias",
        "model",
        "outcome",
        "request_bytes",
        "response_bytes",
        "redactions",
        "id",
    )
    list_display_links = ("at", "id")
    list_filter = ("at", "truncated")
    search_fields = ("id__startswith", "key_id", "key_name")
    list_per_page = list_max_show_all = 50
    show_full_result_count = False
    fields = readonly_fields = (
        *("id", "at", "expires_at", "key_name", "key_id", "alias", "model", "outcome"),
        *("request_bytes", "response_bytes", "truncated", "redactions", "request_text", "response_text"),
    )

    class Media:
        css: ClassVar[dict[str, list[str]]] = {"all": ["providers/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: CapturedPayload | None = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: CapturedPayload | None = None) -> bool:
        return bool(settings.GATEWAY_CAPTURE) and super().has_view_permission(request, obj)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(settings.GATEWAY_CAPTURE) and super().has_module_permission(request)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> CapturedPayload | None:
        row: CapturedPayload | None = super().get_object(request, object_id, from_field)
        # The page of one that is to be deleted shows nothing of it.
        if row is not None and request.resolver_match is not None and "change" in str(request.resolver_match.url_name):
            row.texts = self._open(request, row)
        return row

    def _open(self, request: HttpRequest, row: CapturedPayload) -> tuple[str, str]:
        if not self.has_view_permission(request, row) or not request.user.has_perm(OPEN):
            return ("(you may not open it)",) * 2
        hops: int = settings.GATEWAY_TRUSTED_PROXY_HOPS
        peer = request.META.get("REMOTE_ADDR", "")
        address = callers.address(peer, [request.headers.get("X-Forwarded-For", "")], hops) if hops else peer
        viewer = request.user.get_username()
        try:
            texts = capture.opened(row, viewer=viewer, address=address)
        except VaultError as error:
            return (f"({error})",) * 2
        log.info("payload_opened", request_id=row.id, viewer=viewer)
        return texts

    @admin.display(description="bytes in and out")
    def size(self, row: CapturedPayload) -> str:
        return f"{row.request_bytes:,} / {row.response_bytes:,}"

    @admin.display(description="request")
    def request_text(self, row: Any) -> SafeString:
        return format_html('<pre class="payload">{}</pre>', row.texts[0])

    @admin.display(description="response")
    def response_text(self, row: Any) -> SafeString:
        return format_html('<pre class="payload">{}</pre>', row.texts[1])


@admin.register(PayloadView)
class PayloadViewAdmin(_ViewAdmin):
    """Read only, for everybody."""

    list_display = ("at", "viewer", "payload_id", "address")
    list_filter = ("at",)
    search_fields = ("payload_id", "viewer")
    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: PayloadView | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: PayloadView | None = None) -> bool:
        return False
