"""All paths: the admin, the root, the API with its docs. The probes are answered before Django."""

from django.conf import settings
from django.urls import path, re_path
from django.views.generic import RedirectView

from gateway import urls
from gateway.api import api
from proxysite import pages
from proxysite.version import version

api.version = version()

handler404 = "proxysite.pages.not_found"
handler500 = "proxysite.pages.server_error"

urlpatterns = [path("", pages.index), *urls.urlpatterns, re_path("", pages.unknown)]
if settings.GATEWAY_ADMIN:
    # Only here: a function that serves requests never imports the admin.
    from django.contrib import admin

    from console import usage
    from proxysite import signin, statuspage

    admin.autodiscover()
    admin.site.login_form = signin.GuardedSignIn
    admin.site.site_title = admin.site.site_header = "LLM gateway"
    admin.site.index_title = "Configuration and usage"
    urlpatterns[:0] = [
        path("admin", RedirectView.as_view(pattern_name="admin:index")),
        path("admin/status/", admin.site.admin_view(statuspage.show), name="status"),
        path("admin/usage/", admin.site.admin_view(usage.show), name="usage"),
        path("admin/usage/csv/", admin.site.admin_view(usage.download), name="usage_csv"),
        path("admin/", admin.site.urls),
    ]
