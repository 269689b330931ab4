"""Looking at providers whose breakers are open, with the call of their dialect that costs nothing: GET /models."""

import asyncio

import structlog

from gateway.errors import GatewayError
from gateway.process import Process
from gateway.routing.breakers import Watch
from providers import dialects
from providers.targets import Target, Timeouts

log = structlog.get_logger("gateway")

SECONDS = 2.0
LIMITS = Timeouts(connect=1.5, pool=0.5)
AT_ONCE = 20
MAX_BYTES = 1024 * 1024


async def look(process: Process) -> None:
    """Called each second; asks those that are due, some at a time."""
    due = process.breakers.due()
    for start in range(0, len(due), AT_ONCE):
        await asyncio.gather(*(_look_at(process, watch) for watch in due[start : start + AT_ONCE]))


async def _look_at(process: Process, watch: Watch) -> None:
    if dialects.get(watch.target.provider.dialect).probe_path is None:
        return
    try:
        async with asyncio.timeout(SECONDS):
            status = await _status(process, watch.target)
    except (GatewayError, TimeoutError):
        status = 0
    # A list that is not there is an answer too; only what the breaker opened for is not.
    ok = 200 <= status < 500 and status not in (401, 403, 408, 429)
    log.info("target_looked_at", provider=watch.target.provider.name, model=watch.target.model, status=status)
    process.breakers.looked(watch, ok=ok)


async def _status(process: Process, target: Target) -> int:
    provider, dialect = target.provider, dialects.get(target.provider.dialect)
    assert dialect.probe_path is not None
    headers = [("accept-encoding", "identity"), *dialect.headers(target), *provider.quirks.headers.items()]
    reply = await process.upstream.send(dialect.url(target, dialect.probe_path), headers, b"", LIMITS, method="GET")
    try:
        await reply.read(MAX_BYTES)
    finally:
        await reply.aclose()
    return reply.status
