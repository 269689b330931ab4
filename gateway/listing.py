"""What a pattern such as `mistral/*` opens: the provider's own list of models, asked for once in a while.

Many clients fill their menu from GET /v1/models, and with a pattern alone that would be empty.
"""

import asyncio

import msgspec
import structlog

from gateway.errors import GatewayError
from gateway.process import Process
from providers import dialects
from providers.snapshot import Catalog
from providers.targets import Target, Timeouts

log = structlog.get_logger("gateway")

KEPT = 300.0  # seconds that a list is good for
KEPT_FAILURE = 30.0  # seconds after which a provider that failed is asked again
LIMITS = Timeouts(connect=3.0, pool=1.0)
SECONDS = 5.0  # in all, and so what a client waits at the most
MAX_BYTES = 4 * 1024 * 1024
MAX_MODELS = 5_000


class Model(msgspec.Struct):
    id: str


class Page(msgspec.Struct):
    data: list[Model] = []


async def names(process: Process, config: Catalog) -> list[str]:
    """The requestable names under every pattern, in the patterns' order; a provider that fails adds none."""
    patterns = [alias for alias in config.aliases() if alias.name.endswith("*")]
    opened = [
        (alias.name[:-1], targets[0]) for alias in patterns if (targets := config.targets(alias, alias.name[:-1]))
    ]
    lists = await asyncio.gather(*(_models_of(process, target) for _, target in opened))
    return [prefix + model for (prefix, _), models in zip(opened, lists, strict=True) for model in models]


async def _models_of(process: Process, target: Target) -> tuple[str, ...]:
    listings = process.listings
    until, models = listings.known.get(target.provider.id, (0.0, ()))
    if process.clock() < until:
        return models
    task = listings.asking.get(target.provider.id)
    if task is None:
        task = listings.asking[target.provider.id] = asyncio.create_task(_ask(process, target))
    # Shielded: one client's leaving does not take the list from the others.
    return await asyncio.shield(task)


async def _ask(process: Process, target: Target) -> tuple[str, ...]:
    provider = target.provider
    models: tuple[str, ...] = ()
    kept = KEPT_FAILURE
    try:
        async with asyncio.timeout(SECONDS):
            models, kept = await _fetch(process, target), KEPT
    except (GatewayError, TimeoutError, ValueError, RecursionError) as exc:
        log.info("models_not_listed", provider=provider.name, reason=type(exc).__name__)
    finally:
        process.listings.known[provider.id] = process.clock() + kept, models
        del process.listings.asking[provider.id]
    return models


async def _fetch(process: Process, target: Target) -> tuple[str, ...]:
    provider, dialect = target.provider, dialects.get(target.provider.dialect)
    if dialect.probe_path is None:
        return ()
    headers = [("accept-encoding", "identity"), *dialect.headers(target), *provider.quirks.headers.items()]
    reply = await process.upstream.send(dialect.url(target, dialect.probe_path), headers, b"", LIMITS, method="GET")
    body = await reply.read(MAX_BYTES)
    if reply.status != 200:
        return ()
    # Together has answered with the bare list.
    page = msgspec.json.decode(body, type=Page | list[Model])
    found = page.data if isinstance(page, Page) else page
    return tuple(model.id for model in found[:MAX_MODELS])
