"""The operator's pages for what is configured; importing the parts registers them."""

from providers.admin import aliases, clientkeys, providers, teams

__all__ = ["aliases", "clientkeys", "providers", "teams"]
