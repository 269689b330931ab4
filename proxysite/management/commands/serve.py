"""`manage.py serve`: the production server."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from proxysite import addresses, env


class Command(BaseCommand):
    help = "Serves the gateway: uvicorn with caps and deadlines for request heads, JSON errors and a drain at SIGTERM."
    # Run by hand: the secrets come first, since the other checks import the whole application.
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: this machine only)")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--workers", type=int, default=1, help="processes that share the port")

    def handle(self, *args: Any, **options: Any) -> None:
        host, port, workers = options["host"], options["port"], options["workers"]
        if not settings.DEBUG and settings.SECRETS.problems:
            raise CommandError(env.refusal(settings.SECRETS.problems))
        if settings.DEBUG and not addresses.is_loopback(host):
            raise CommandError(f"Refusing to bind {host} with DJANGO_DEBUG on: its error pages show the settings.")
        if workers < 1:
            raise CommandError("--workers is at least 1.")
        if reason := addresses.why_not(host, port):
            raise CommandError(f"Cannot bind {host}:{port}: {reason}.")
        self.check(display_num_errors=False)

        from proxysite.server import configuration, serve

        if status := serve(configuration(host=host, port=port, workers=workers)):
            raise SystemExit(status)
