"""The few pages of the building itself: the root, and what is not found or failed, as JSON for the API's paths."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from django.views.decorators.http import require_safe

from gateway.errors import GatewayError, InternalError, NotFound


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """What this is, where the API is, and where to read about it: one JSON line for whoever opens the root."""
    root = settings.OPENAI_PROXY_URL.rstrip("/").removesuffix("/v1") or request.build_absolute_uri("/").rstrip("/")
    lines = {"name": "LLM gateway", "base_url": f"{root}/v1", "docs": f"{root}/docs"}
    if settings.GATEWAY_ADMIN:
        lines["admin"] = f"{root}/admin/"
    return JsonResponse(lines)


def unknown(request: HttpRequest) -> HttpResponse:
    """The last URL pattern: no path gets Django's debug page, whatever DEBUG says."""
    return as_json(NotFound(f"Invalid URL ({request.method} {request.path})"))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return defaults.page_not_found(request, exception) if is_page(request) else unknown(request)


def server_error(request: HttpRequest) -> HttpResponse:
    if is_page(request):
        return defaults.server_error(request)
    return as_json(InternalError("The server had an error while processing your request."))


def is_page(request: HttpRequest) -> bool:
    return request.path.startswith("/admin/") and settings.GATEWAY_ADMIN


def as_json(error: GatewayError) -> HttpResponse:
    return JsonResponse(error.body(), status=error.status)
