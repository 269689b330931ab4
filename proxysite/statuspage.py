"""/status as JSON, and the same for people in the admin: which providers are out of order or slow, for this process."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from asgiref.sync import async_to_sync
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.views.decorators.http import require_safe

from gateway import status
from gateway.engine import engine
from gateway.process import Process
from providers import snapshot
from proxysite.guardedpage import GuardedPage


class HasProcess(Protocol):
    process: Process | None


class StatusPage(GuardedPage):
    path = "/status"
    content_type = "application/json"

    def __init__(self, runs: HasProcess, token: str, networks: Sequence[str]) -> None:
        super().__init__(token, networks)
        self.runs = runs

    async def body(self) -> bytes:
        return msgspec.json.encode(await report(self.runs))


async def report(runs: HasProcess) -> dict[str, Any]:
    """On the event loop, whose requests change what is read."""
    if runs.process is None:
        return {"object": "gateway.status", "process": None, "targets": []}
    return status.report(runs.process, snapshot.current())


@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """For operators who may see providers; each look may be answered by another process."""
    from django.contrib import admin

    if not request.user.has_perm("providers.view_provider"):
        raise PermissionDenied
    found = async_to_sync(report)(engine)
    context = {**admin.site.each_context(request), "title": "Providers now", "report": found}
    return TemplateResponse(request, "admin/status.html", context)
