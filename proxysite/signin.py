"""Signing in to the admin, with a limit on the attempts for each account and from each address."""

from typing import Any

from django.conf import settings
from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django_ratelimit.core import get_usage

from providers import callers

# Windows are fixed: twice as many may pass in 15 minutes that lie across the border of two of them.
RATE = "5/15m"
GROUP = "sign-in"


class GuardedSignIn(AdminAuthenticationForm):
    """Each attempt counts, a right one too, before the password is looked at: so no number of parallel ones passes.

    The words are the same for accounts that exist and for those that do not.
    """

    def clean(self) -> dict[str, Any]:
        assert self.request is not None
        username = str(self.cleaned_data.get("username") or "")
        left = [
            wait(self.request, "account", username.casefold()),
            wait(self.request, "address", address(self.request)),
        ]
        if any(left):
            minutes = -(-max(left) // 60)
            raise ValidationError(
                f"Too many attempts to sign in. Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
                code="throttled",
            )
        found: dict[str, Any] = super().clean()
        return found


def wait(request: HttpRequest, kind: str, value: str) -> int:
    """Count one attempt; seconds until the next may be made where there were too many, else 0."""
    usage = get_usage(request, group=f"{GROUP}:{kind}", key=lambda *_: value or "-", rate=RATE, increment=True)
    return max(1, usage["time_left"]) if usage and usage["should_limit"] else 0


def address(request: HttpRequest) -> str:
    """Where the browser is, as an address or the /64 of one: never what the browser itself wrote."""
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR")
    hops: int = settings.GATEWAY_TRUSTED_PROXY_HOPS
    peer = str(request.META.get("REMOTE_ADDR") or "")
    return callers.network(callers.address(peer, [forwarded] if forwarded else [], hops))
