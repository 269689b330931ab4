"""The admin with the project's own pages first, in the order in which an operator needs them."""

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.sites import AdminSite
from django.http import HttpRequest


class AdminConfig(SimpleAdminConfig):
    default_site = "proxysite.adminsite.Site"


class Site(AdminSite):
    """An app whose configuration lists its `pages` stands before those that do not, as in INSTALLED_APPS."""

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        pages: dict[str, Sequence[str]] = {app.label: getattr(app, "pages", ()) for app in apps.get_app_configs()}
        order = [label for label, names in pages.items() if names]
        found: list[Any] = super().get_app_list(request, app_label)
        for app in found:
            app["models"] = _in_order(app["models"], "object_name", pages[app["app_label"]])
        return _in_order(found, "app_label", order)


def _in_order(rows: list[Any], field: str, names: Sequence[str]) -> list[Any]:
    """Those that are in `names` first; the others keep their own order."""
    return sorted(rows, key=lambda row: names.index(row[field]) if row[field] in names else len(names))
