"""A page for one end user: what it used, what is left of its budgets, and the switch that blocks it."""

from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from ledger.currentlimits import standings
from ledger.models import BudgetAccount, DailyRollup, UsageRecord
from providers.endusers import EndUser, set_state

DAYS = 30
SHOWN = 50


def address(name: str, key: str = "") -> str:
    return f"{reverse('admin:end_user')}?{urlencode({'name': name, 'key': key} if key else {'name': name})}"


def link(name: str) -> SafeString | str:
    return format_html('<a href="{}">{}</a>', address(name), name) if name else ""


def view(request: HttpRequest) -> HttpResponse:
    """`?name=` and, where it is about one application, `&key=`."""
    if not request.user.has_perm("ledger.view_dailyrollup"):
        raise PermissionDenied
    name, key = request.GET.get("name", ""), request.GET.get("key", "")
    if request.method == "POST":
        return _switch(request, name, key)
    since = timezone.now() - timedelta(days=DAYS)
    mine = {"end_user": name, **({"key_id": key} if key else {})}
    totals = DailyRollup.objects.filter(day__gte=since.date(), **mine).order_by("-day")
    sums = {column: Sum(column) for column in ("requests", "unpriced", "tokens_in", "tokens_out", "cost")}
    row = EndUser.objects.filter(name=name, key=key).first()
    budgets = list(BudgetAccount.objects.filter(subject=name).order_by("-starts_on")[:SHOWN])
    limits = standings(budgets)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": f"End user {name}",
        "name": name,
        "key": key,
        "row": row,
        "days": totals.values("day", "key_id", "key_name", "alias").annotate(**sums)[: SHOWN * 2],
        "sums": totals.aggregate(**sums),
        "budgets": [(account, limits[account.id]) for account in budgets],
        "records": UsageRecord.objects.filter(started_at__gte=since, **mine)[:SHOWN],
        "may_block": request.user.has_perm("providers.change_enduser"),
        "days_shown": DAYS,
    }
    return TemplateResponse(request, "ledger/end_user.html", context)


def _switch(request: HttpRequest, name: str, key: str) -> HttpResponse:
    if not request.user.has_perm("providers.change_enduser"):
        raise PermissionDenied
    what = request.POST.get("do")
    try:
        if what == "tokens":
            set_state(name, key, tokens_before=timezone.now())
        else:
            set_state(name, key, blocked=what == "block")
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        done = {"tokens": "Its tokens are at an end.", "block": "Blocked."}
        messages.success(request, done.get(what or "", "Let in again."))
    return HttpResponseRedirect(address(name, key))


urls = [path("end-user/", admin.site.admin_view(view), name="end_user")]
