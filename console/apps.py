"""What an operator looks at beyond the stock admin, as a Django app: for its templates and its style sheet."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "console"
