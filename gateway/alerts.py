"""Tells the operator of alerts: by a webhook and by e-mail, off the requests' way, each alert by one process.

The webhook is sent JSON with `id`, `kind`, `text` and the facts; an answer of 2xx means that it was taken. What was not
taken is sent again a minute later, ten times at the most, so that one alert may come twice: `id` says so.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import structlog
from django.core.mail import send_mail

from gateway.process import Process
from ledger import alerts
from ledger.alerts import Velocity
from ledger.models import Alert
from providers.targets import Timeouts

log = structlog.get_logger("gateway")

SECONDS = 10.0
WATCH_SECONDS = 60.0
MAX_POSTED = 1000
HEADERS = [("content-type", "application/json"), ("accept-encoding", "identity"), ("user-agent", "llm-gateway")]
VELOCITY = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)/([0-9]{1,4})(m|h)")
Sql = Callable[..., Awaitable[Any]]


class Channels(msgspec.Struct, frozen=True):
    """Where alerts go; with none of both they stand in the admin only."""

    webhook: str = ""
    emails: Sequence[str] = ()
    velocity: Velocity | None = None


def velocity(text: str) -> Velocity | None:
    """`5.00/10m`: more than 5 dollars in 10 minutes; "" is none. Raises ValueError."""
    if not text:
        return None
    match = VELOCITY.fullmatch(text)
    seconds = int(match[2]) * {"m": 60, "h": 3600}[match[3]] if match else 0
    if match is None or not seconds or not Decimal(match[1]):
        raise ValueError(f"{text!r} is no spending in a time, such as 5.00/10m or 20/1h")
    return Velocity(Decimal(match[1]), seconds)


class Herald:
    """`tell` is called every few seconds; it raises what the database raises, and says what a channel did."""

    def __init__(self, process: Process, sql: Sql, channels: Channels, wall: Callable[[], float]) -> None:
        self._process = process
        self._sql = sql
        self._channels = channels
        self._wall = wall
        self._watched_at = 0.0
        self._posted: set[str] = set()  # ids of alerts that the webhook has taken and no mail server yet

    async def tell(self) -> None:
        channels, now = self._channels, self._wall()
        if channels.velocity is not None and abs(now - self._watched_at) >= WATCH_SECONDS:
            self._watched_at = now
            await self._sql(alerts.watch, channels.velocity, now)
        if not channels.webhook and not channels.emails:
            return
        if len(self._posted) > MAX_POSTED:
            self._posted.clear()
        for alert in await self._sql(alerts.claim):
            if await self._tell(alert):
                await self._sql(alerts.told, alert.id)

    async def _tell(self, alert: Alert) -> bool:
        try:
            async with asyncio.timeout(SECONDS):
                if self._channels.webhook and alert.id not in self._posted:
                    await self._post(msgspec.json.encode(alerts.payload(alert)))
                    self._posted.add(alert.id)
                if self._channels.emails:
                    await asyncio.to_thread(
                        send_mail, f"LLM gateway: {alert.kind} alert", alert.text, None, list(self._channels.emails)
                    )
        except Exception as error:  # of whichever kind: it is tried again
            log.warning("alert_not_told", alert=alert.id, error=type(error).__name__)
            return False
        self._posted.discard(alert.id)
        log.info("alert_told", alert=alert.id)
        return True

    async def _post(self, body: bytes) -> None:
        url = self._channels.webhook
        reply = await self._process.upstream.send(url, HEADERS, body, Timeouts(total=SECONDS))
        await reply.aclose()
        if not 200 <= reply.status < 300:
            raise ValueError(reply.status)
