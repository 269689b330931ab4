"""What usage can be grouped by: columns of the daily totals, and how each is found among the usage rows."""

from collections.abc import Iterable
from typing import Any

import msgspec
from django.db import models
from django.urls import reverse
from django.utils.http import urlencode

from console.spans import Span
from providers.models import ClientKey, Team


class Grouping(msgspec.Struct, frozen=True):
    """`parameter` is that of the admin's list of usage rows, `names` the column of the name that goes with an id.

    The list's own filters are not there where no alias or no key is configured; a lookup holds always.
    """

    label: str
    column: str
    parameter: str
    nothing: str  # the name of the group of an empty value
    names: str = ""
    configured: type[models.Model] | None = None

    def current_names(self, ids: Iterable[str]) -> dict[str, str]:
        """The names that those have today; one that is gone, or comes from a file, has none."""
        if self.configured is None:
            return {}
        rows: Any = self.configured._default_manager.filter(pk__in=[one for one in ids if one])
        return dict(rows.values_list("pk", "name"))

    def rows_address(self, value: str, span: Span) -> str:
        """The admin's list of the usage rows that a group adds up."""
        days = {"started_at__gte": _midnight(span.first), "started_at__lt": _midnight(span.end)}
        return f"{reverse('admin:ledger_usagerecord_changelist')}?{urlencode({self.parameter: value, **days})}"


def _midnight(day: Any) -> str:
    return f"{day:%Y-%m-%d} 00:00:00+00:00"


GROUPINGS = {
    "alias": Grouping("Alias", "alias", "alias__exact", "no alias"),
    "provider": Grouping("Provider", "provider", "provider__exact", "no provider"),
    "model": Grouping("Upstream model", "model", "upstream_model__exact", "no model"),
    "key": Grouping("Client key", "key_id", "key_id__exact", "no key", "key_name", ClientKey),
    "team": Grouping("Team", "team_id", "team_id__exact", "no team", "team_name", Team),
    "end_user": Grouping("End user", "end_user", "end_user__exact", "no end user"),
}
USUAL = "alias"
