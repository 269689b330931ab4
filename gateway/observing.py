"""What watches a process: its numbers, for whoever reads them; nothing is made where nobody does."""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings

from gateway.metrics.emf import Emf
from gateway.metrics.meters import Meters
from gateway.metrics.pages import Series
from gateway.process import Process
from gateway.sqlthread import paced
from ledger.journal import Journal
from ledger.loglines import LogLines

if TYPE_CHECKING:
    from gateway.capturing import Captures
    from gateway.tracing.export import Telemetry

# OpenTelemetry's own variables; with none of them there is nobody to tell.
ENDPOINTS = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)

log = structlog.get_logger("metrics")


LAST = 2.0  # seconds that the last of it may take
PRUNE = 3600.0  # seconds between two looks for payloads whose days are over


class Observer:
    """One a process, begun and ended by the engine."""

    def __init__(self) -> None:
        self.meters: Meters | None = None
        self.emf: Emf | None = None
        self.captures: Captures | None = None
        self.rows: Any = None  # ledger.capture
        self.telemetry: Telemetry | None = None
        self._pruned_at = self._exported_at = float("-inf")

    def begin(self, process: Process, journal: Journal | LogLines, data_dir: Path | None) -> None:
        """`data_dir` is where the processes of this machine find each other's numbers; None: there is one process."""
        self.process, self.journal = process, journal
        if settings.GATEWAY_CAPTURE:
            # What needs a database is no part of a start without one.
            from gateway.capturing import Captures
            from ledger import capture
            from ledger.redaction import Redactor

            self.rows = capture
            self.captures = process.captures = Captures(settings.GATEWAY_CAPTURE_BYTES, process.memory)
            self.redactor = Redactor(settings.GATEWAY_CAPTURE_PATTERNS)
        if settings.GATEWAY_EMF:
            self.emf = Emf(settings.GATEWAY_EMF_NAMESPACE, os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "llm-gateway"))
        self.telemetry = process.traces = telemetry()
        if self.telemetry is not None:
            self._exported_at = process.clock()
        read = settings.GATEWAY_METRICS_TOKEN or settings.GATEWAY_METRICS_FROM
        if read or self.emf is not None or self.telemetry is not None:
            self.meters = process.meters = Meters(data_dir, time.time)
            self.look()

    def look(self) -> None:
        """Each second: what is now."""
        if self.meters is not None:
            self.meters.look(self.process, self.journal.pending, self.journal.away)

    async def export(self) -> None:
        """Each second: the numbers to OpenTelemetry, when their time has come; the spans go by themselves."""
        telemetry, meters = self.telemetry, self.meters
        if telemetry is None or meters is None or self.process.clock() - self._exported_at < telemetry.interval:
            return
        self._exported_at = self.process.clock()
        await asyncio.to_thread(telemetry.export, meters.page.series())

    def adopt(self) -> None:
        """Each five seconds, off the loop: the numbers of processes that are gone."""
        if self.meters is not None:
            self.meters.shelf.adopt()

    async def keep(self) -> None:
        """Each second, and after a response where the process may be frozen then: captured payloads into rows."""
        captures, sql = self.captures, self.process.sql
        if captures is None or sql is None:
            return
        while batch := captures.batch():
            await sql(paced, self.rows.store, batch, self.redactor)
            captures.stored(len(batch))
        if self.process.clock() - self._pruned_at > PRUNE:
            self._pruned_at = self.process.clock()
            await sql(paced, self._prune)

    def total(self) -> Series | None:
        """The sums over all processes of this machine, None where nothing is counted; reads files."""
        return self.meters.total() if self.meters is not None else None

    async def flush(self) -> None:
        """After a response, where the process may be frozen then: what has come, into the log."""
        if self.emf is not None and self.meters is not None:
            self.look()
            for line in self.emf.lines(self.meters.page.series(), time.time()):
                log.info("metrics", **line)
        if self.telemetry is not None and self.meters is not None:
            await asyncio.to_thread(self.telemetry.flush, self.meters.page.series())

    async def end(self) -> None:
        if self.telemetry is not None and self.meters is not None:
            telemetry, self.telemetry, self.process.traces = self.telemetry, None, None
            with suppress(TimeoutError):
                # A collector that is away does not keep the process from its end.
                async with asyncio.timeout(LAST):
                    await asyncio.to_thread(telemetry.flush, self.meters.page.series())
                    await asyncio.to_thread(telemetry.close)
        if self.meters is not None:
            self.process.meters = None
            self.meters.close()
            self.meters = None
        self.process.captures = self.captures = None

    def _prune(self) -> None:
        if count := sum(self.rows.prune()):
            log.info("payloads_pruned", count=count)


def telemetry() -> "Telemetry | None":
    """Only where there is an endpoint is any of OpenTelemetry imported."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from gateway.tracing.export import Telemetry
    except ImportError as error:
        log.warning("opentelemetry_is_not_installed", missing=error.name, hint="scripts/venv otel")
        return None
    return Telemetry(settings.VERSION, settings.GATEWAY_TRACEPARENT)
