"""`python -m bench.credentials`: what a publishable key and an ephemeral token cost beside a secret key.

The real handler is called in this process, without a socket: the built-in provider answers, so that what differs is the
credential alone. Rounds are interleaved, and the figure is the median of their CPU times for each request.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

ROUNDS, CALLS = 15, 400
MOST = 60.0  # microseconds that a credential may cost more than a secret key
ORIGIN = "https://app.example.com"
BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "hi"}]}).encode()
LIMITS: dict[str, Any] = {"rpm": 100_000_000, "burst": 100_000_000}


def scope_of(token: str, origin: str) -> dict[str, Any]:
    headers = [
        (b"host", b"127.0.0.1"),
        (b"authorization", b"Bearer " + token.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
    ]
    if origin:
        headers.append((b"origin", origin.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "headers": headers,
        "client": ("192.0.2.7", 1234),
        "server": ("127.0.0.1", 8000),
    }


async def call(handler: Any, scope: dict[str, Any]) -> int:
    """The status of one request."""
    messages = [{"type": "http.request", "body": BODY, "more_body": False}]
    never = asyncio.get_running_loop().create_future()
    status = 0

    async def receive() -> Any:
        return messages.pop() if messages else await never

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await handler(scope, receive, send)
    return status


async def measure(scopes: dict[str, dict[str, Any]], handler: Any) -> dict[str, float]:
    """Microseconds of CPU for each request, by credential."""
    found: dict[str, list[float]] = {name: [] for name in scopes}
    for number in range(ROUNDS + 1):
        for name, scope in scopes.items():
            began = time.thread_time()
            for _ in range(CALLS):
                if (status := await call(handler, scope)) != 200:
                    raise SystemExit(f"{name}: {status}")
            if number:  # the first one warms up
                found[name].append((time.thread_time() - began) / CALLS * 1e6)
    return {name: statistics.median(rounds) for name, rounds in found.items()}


async def main() -> int:
    from asgiref.sync import sync_to_async
    from django.conf import settings
    from django.core.management import call_command

    from gateway.asgi import GatewayHandler
    from gateway.engine import Engine
    from providers import minting
    from providers.cards import key_card
    from providers.models import ClientKey, ModelAlias, Provider, Route

    def configure() -> dict[str, dict[str, Any]]:
        call_command("migrate", verbosity=0)
        alias = ModelAlias.objects.create(name="echo")
        Route.objects.create(alias=alias, provider=Provider.objects.create(name="echo", dialect="echo"), model="echo")
        row, secret = ClientKey.objects.mint("server", aliases=["echo"], origins=[ORIGIN], **LIMITS)
        bounds: dict[str, Any] = {"endpoints": ["chat.completions"], "max_tokens": 100, "address_rpm": 100_000_000}
        _, public = ClientKey.objects.mint(
            "page", kind="publishable", aliases=["echo"], origins=[ORIGIN], **bounds, **LIMITS
        )
        wish = minting.Wish("anna", expires_in=3600, origin=ORIGIN, aliases=["echo"], max_tokens=100)
        token = minting.mint(key_card(row), wish, settings.GATEWAY_KEY_PEPPERS, time.time()).token
        named = {"secret": (secret, ""), "publishable": (public, ORIGIN), "ephemeral": (token, ORIGIN)}
        return {name: scope_of(*values) for name, values in named.items()}

    engine = Engine()
    scopes = await sync_to_async(configure)()
    await engine.start()
    try:
        found = await measure(scopes, GatewayHandler(engine))
    finally:
        await engine.stop()
    most = 0.0
    for name, cost in found.items():
        more = cost - found["secret"]
        most = max(most, more)
        print(f"{name:12} {cost:7.1f} us a request   {more:+6.1f}")
    print(f"{'ok' if most <= MOST else 'TOO MUCH'}: at most {MOST:.0f} us more")
    return 0 if most <= MOST else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(DJANGO_SETTINGS_MODULE="proxysite.settings", DJANGO_DEBUG="1", GATEWAY_DATA_DIR=folder)
        os.environ.update(GATEWAY_ACCESS_LOG="0")
        import django

        django.setup()
        sys.exit(asyncio.run(main()))
