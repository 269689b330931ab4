"""All paths: the admin, the root, the API with its docs. The probes are answered before Django."""

from django.contrib import admin
from django.urls import path, re_path
from django.views.generic import RedirectView

from gateway.api import api
from proxysite import pages

handler404 = "proxysite.pages.not_found"
handler500 = "proxysite.pages.server_error"

urlpatterns = [
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("", pages.index),
    path("", api.urls),
    re_path("", pages.unknown),
]
