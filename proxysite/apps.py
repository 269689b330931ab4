"""The building as a Django app: what must be set up before the first request, whoever starts the process."""

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import Tags, register

from proxysite import checks


class ProxysiteConfig(AppConfig):
    name = "proxysite"

    def ready(self) -> None:
        register(checks.check_secrets, Tags.security)
        register(checks.check_database, Tags.security)
        if settings.GATEWAY_ADMIN:
            # Its form is a model's: it cannot be imported before the models are there. Nor is it where nobody signs in.
            from django.contrib import admin

            from proxysite import signin

            admin.site.login_form = signin.GuardedSignIn
