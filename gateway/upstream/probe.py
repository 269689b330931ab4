"""One cheap call to a provider that proves its address and credential: what the admin's "Test upstream" button runs."""

import asyncio
import time

from django.conf import settings

from gateway.errors import GatewayError
from gateway.replies.refusals import mask
from gateway.upstream.client import Upstream
from providers import dialects
from providers.addresses import AddressPolicy
from providers.probing import ProbeResult
from providers.targets import CredentialCard, ProviderCard, Target, Timeouts

LIMIT = 10.0  # seconds, all in all
SHOWN = 500  # characters of the provider's own words
READ = 65_536  # bytes


def probe(card: ProviderCard, credential: CredentialCard | None) -> ProbeResult:
    """Call the dialect's probe path with that credential; blocks for 10 s at most, and does not raise."""
    return asyncio.run(_probe(Target(card, "", credential)))


async def _probe(target: Target) -> ProbeResult:
    upstream = Upstream(AddressPolicy(settings.GATEWAY_PRIVATE_UPSTREAMS, development=settings.DEVELOPMENT))
    begun = time.monotonic()
    try:
        async with asyncio.timeout(LIMIT):
            status, text = await _ask(upstream, target)
    except TimeoutError:
        status, text = 0, f"No answer within {LIMIT:.0f} seconds."
    except GatewayError as exc:
        status, text = 0, exc.message
    finally:
        await upstream.aclose()
    ok = 200 <= status < 300
    return ProbeResult(ok=ok, status=status, text=text, milliseconds=round((time.monotonic() - begun) * 1000))


async def _ask(upstream: Upstream, target: Target) -> tuple[int, str]:
    dialect = dialects.get(target.provider.dialect)
    path = dialect.probe_path
    if path is None:
        return 0, "This dialect has no call that costs nothing; send a request through an alias instead."
    headers = [("accept-encoding", "identity"), *dialect.headers(target), *target.provider.quirks.headers.items()]
    reply = await upstream.send(dialect.url(target, path), headers, b"", Timeouts(), method="GET")
    body = b""
    async for data in reply.chunks():
        body += data
        if len(body) > READ:
            break
    await reply.aclose()
    text = mask(body.decode("utf-8", "replace"), [target.secret])
    return reply.status, text[:SHOWN]
