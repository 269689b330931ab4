"""The operator's pages for what is configured; importing the parts registers them."""

from providers.admin import aliases, clientkeys, endusers, history, issuers, providers, teams

__all__ = ["aliases", "clientkeys", "endusers", "history", "issuers", "providers", "teams"]
