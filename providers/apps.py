"""The providers as a Django app: what is configured."""

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "providers"

    def ready(self) -> None:
        from providers import checks, overlay_checks  # noqa: F401  registers them
