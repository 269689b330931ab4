"""The building as a Django app: what must be set up before the first request, whoever starts the process."""

from django.apps import AppConfig
from django.core.checks import Tags, register

from proxysite import checks


class ProxysiteConfig(AppConfig):
    name = "proxysite"

    def ready(self) -> None:
        register(checks.check_secrets, Tags.security)
        register(checks.check_database, Tags.security)
        register(checks.check_alerts, Tags.security)
