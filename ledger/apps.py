"""The ledger as a Django app: the account of what happened."""

from django.apps import AppConfig


class LedgerConfig(AppConfig):
    name = "ledger"
    verbose_name = "Usage and money"
    pages = ("UsageRecord", "DailyRollup", "BudgetAccount", "PriceRow", "Alert", "CapturedPayload", "PayloadView")
