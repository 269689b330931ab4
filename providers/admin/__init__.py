"""The operator's pages for what is configured; importing the parts registers them."""

from providers.admin import aliases, clientkeys, history, providers, teams

__all__ = ["aliases", "clientkeys", "history", "providers", "teams"]
