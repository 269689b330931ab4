"""The gateway as a Django app: what happens now."""

from django.apps import AppConfig

from providers import probing
from providers.targets import CredentialCard, ProviderCard


class GatewayConfig(AppConfig):
    name = "gateway"

    def ready(self) -> None:
        from gateway import checks  # noqa: F401  registers them

        probing.register(probe)


def probe(card: ProviderCard, credential: CredentialCard | None) -> probing.ProbeResult:
    """Answers the admin's "Test upstream"; the HTTP client is imported at its first use, not by every command."""
    from gateway.upstream import probe as probes

    return probes.probe(card, credential)
