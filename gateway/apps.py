"""The gateway as a Django app: what happens now."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "gateway"
