"""The building as a Django app: what must be set up before the first request, whoever starts the process."""

from django.apps import AppConfig
from django.conf import settings
from django.contrib import admin
from django.core.checks import Tags, register

from proxysite import checks, logs


class ProxysiteConfig(AppConfig):
    name = "proxysite"

    def ready(self) -> None:
        logs.configure(readable=settings.DEBUG)
        register(checks.check_secrets, Tags.security)
        # Its form is a model's: it cannot be imported before the models are there.
        from proxysite import signin

        admin.site.login_form = signin.GuardedSignIn
