"""`manage.py quickstart`: from nothing to a first streamed answer; may be run again at any time."""

import json
import secrets
import socket
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import connections, transaction

from providers import newkeys
from providers.audit import ActingCommand
from providers.models import ClientKey, ModelAlias, Provider, Route

HOST = "127.0.0.1"
ECHO = "echo"
KEY_NAME = "quickstart"
BODY = {"model": ECHO, "stream": True, "messages": [{"role": "user", "content": "Hello, gateway!"}]}
PYTHON = """\
from openai import OpenAI

client = OpenAI(base_url="{base_url}", api_key="{key}")
for chunk in client.chat.completions.create(
    model="echo", stream=True, messages=[{{"role": "user", "content": "Hello, gateway!"}}]
):
    print(chunk.choices[0].delta.content or "" if chunk.choices else "", end="", flush=True)
"""


class Command(ActingCommand):
    help = "Sets up a gateway that works at once, with the built-in echo provider, and serves it."
    requires_system_checks = ()  # made below: since Django 6.1 they make SQLite's file

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--no-serve", action="store_true", help="set up and print only")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--new-key", action="store_true", help="mint another client key and show it")

    def handle(self, *args: Any, **options: Any) -> None:
        port: int = options["port"]
        if not options["no_serve"]:
            require_free(port)
        self.check()
        call_command("migrate", interactive=False, verbosity=0)
        with transaction.atomic():
            password = admin_password()
            make_echo()
            token = client_token(again=options["new_key"])
        connections.close_all()
        root = settings.OPENAI_PROXY_URL.rstrip("/").removesuffix("/v1") or f"http://{HOST}:{port}"
        self.stdout.write("\n".join(described(root, password, token)))
        self.stdout.flush()
        if not options["no_serve"]:
            if settings.DEBUG:
                call_command("runserver", f"{HOST}:{port}")
            else:
                call_command("serve", host=HOST, port=port)


def require_free(port: int) -> None:
    """Raises CommandError where the port cannot be bound, before anything is made or printed."""
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except (OSError, OverflowError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "no such port"
            raise CommandError(f"Cannot serve on port {port}: {reason}. Name another: quickstart --port 8001") from None


def admin_password() -> str | None:
    """The password of the first superuser, made here and kept nowhere; None where there is one already."""
    users = get_user_model().objects
    if users.filter(is_superuser=True).exists():
        return None
    password = secrets.token_urlsafe(12)
    users.create_superuser("admin", password=password)
    return password


def make_echo() -> None:
    """A provider that answers without a provider, and the alias `echo`; what an operator has changed stays."""
    provider, _ = Provider.objects.get_or_create(name=ECHO, defaults={"dialect": ECHO})
    alias, made = ModelAlias.objects.get_or_create(name=ECHO)
    if made:
        Route.objects.create(alias=alias, provider=provider, model=ECHO)


def client_token(*, again: bool) -> str | None:
    """A first client key, or another if asked for; None where one was shown before."""
    if not again and ClientKey.objects.filter(name=KEY_NAME).exists():
        return None
    usual = newkeys.defaults()
    _, token = ClientKey.objects.mint(KEY_NAME, rpm=usual.rpm, budget=usual.budget, expires_at=usual.ends_at())
    return token


def described(root: str, password: str | None, token: str | None) -> list[str]:
    """What a stranger needs: addresses, user, key, and two calls that can be pasted as they stand."""
    base_url = f"{root}/v1"
    key = token or "$OPENAI_API_KEY"
    user = get_user_model().objects.filter(is_superuser=True).order_by("pk").values_list("username", flat=True)[0]
    call = f'curl -N {base_url}/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json"'
    return [
        "",
        f"Admin       {root}/admin/",
        f"User        {user}",
        f"Password    {password or f'set earlier; change it with: manage.py changepassword {user}'}",
        f"Base URL    {base_url}",
        f"Client key  {token or 'shown earlier; for another one: manage.py quickstart --new-key'}",
        "",
        "Try it:",
        "",
        f"{call} -d '{json.dumps(BODY)}'",
        "",
        "Or with the Python SDK (pip install openai):",
        "",
        PYTHON.format(base_url=base_url, key=token or "YOUR_CLIENT_KEY"),
    ]
