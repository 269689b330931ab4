"""The providers as a Django app: what is configured."""

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "providers"
    verbose_name = "Providers, models and keys"
    # As an operator sets them up (proxysite/adminsite.py).
    pages = ("Provider", "ModelAlias", "ClientKey", "Team", "EndUser", "Issuer")

    def ready(self) -> None:
        from providers import checks, overlay_checks  # noqa: F401  registers them
