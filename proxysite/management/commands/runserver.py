"""`manage.py runserver`: development, with the application that production serves."""

from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.core.management.commands import runserver
from django.db import connections

from proxysite import addresses


class Command(runserver.Command):
    """Django's command line, uvicorn behind it: `runserver` over WSGI would hold each stream back until its end."""

    help = "Serves the gateway for development: streaming, with reload when a .py file of the project changes."

    addr: str
    port: str

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("addrport", nargs="?", help="Optional port number, or ipaddr:port")
        parser.add_argument("--ipv6", "-6", action="store_true", dest="use_ipv6", help="Use an IPv6 address.")
        parser.add_argument("--noreload", action="store_false", dest="use_reloader", help="Do not watch the files.")

    def run(self, **options: Any) -> None:
        host, port = ("0.0.0.0" if self.addr == "0" else self.addr), int(self.port)  # noqa: S104
        if settings.DEBUG and not addresses.is_loopback(host):
            raise CommandError(
                f"Refusing to bind {host} with DJANGO_DEBUG on: its error pages show the settings. "
                "Use `manage.py serve --host` with secrets of its own."
            )
        if reason := addresses.why_not(host, port):
            raise CommandError(f"Cannot bind {host}:{port}: {reason}. Name another port: manage.py runserver 8001")
        if not options["skip_checks"]:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        connections.close_all()
        self.stdout.write(f"Development server at {addresses.url(host, port)}/ (stop it with CONTROL-C)")

        from proxysite.server import configuration, develop

        # A change of a file, or Control-C, does not wait for open streams.
        config = configuration(host=host, port=port, streams=0.5, drain=1.0)
        if status := develop(config, watched() if options["use_reloader"] else []):
            raise SystemExit(status)


def watched() -> list[Path]:
    """The folders of the project's own apps, and no package or data beside them."""
    root = Path(settings.BASE_DIR)
    folders = (Path(config.path) for config in apps.get_app_configs())
    return sorted(folder for folder in folders if folder.parent == root)
