"""Spans and metrics for OpenTelemetry, made when a request is over and sent by a thread of their own (OTLP over HTTP).

Attributes are those of https://opentelemetry.io/docs/specs/semconv/gen-ai/. No prompt and no answer is among them.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from gateway.attempts import Attempt
from gateway.metrics.families import BY_NAME, Family
from gateway.metrics.meters import class_of, end_of
from gateway.metrics.pages import Series
from gateway.receipts import Call, Receipt
from gateway.tracing.context import Trace, begin, new_span
from providers.ids import uuid7
from providers.scrubbing import Scrubber

OPERATIONS = {"chat.completions": "chat", "completions": "text_completion", "messages": "chat", "responses": "chat"}
# What the conventions call a measured time of ours, beside our own name of it.
CONVENTIONAL = {
    "gateway_request_duration_seconds": "gen_ai.client.operation.duration",
    "gateway_time_to_first_byte_seconds": "gen_ai.server.time_to_first_token",
    "gateway_time_per_output_token_seconds": "gen_ai.server.time_per_output_token",
}
LABELS = {"alias": "gen_ai.request.model", "provider": "gen_ai.provider.name", "endpoint": "gen_ai.operation.name"}

Value = str | bool | int | float
scrub = Scrubber()


class Telemetry:
    """One a process. Endpoint, headers and the rest are OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_...)."""

    def __init__(self, version: str, ways: list[str]) -> None:
        names = {"service.name": "llm-gateway", "service.version": version, "service.instance.id": uuid7()}
        own = {"service.name": os.environ["OTEL_SERVICE_NAME"]} if os.environ.get("OTEL_SERVICE_NAME") else {}
        self.resource = Resource.create({**names, **own})
        self.scope = InstrumentationScope("llm-gateway", version)
        self.ways = ways
        # Each signal has an endpoint of its own, or that of both; one without any is not sent.
        self.ratio = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1) if is_told("TRACES") else 0.0
        self.interval = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1000
        self.spans = BatchSpanProcessor(OTLPSpanExporter())
        self.metrics = OTLPMetricExporter()
        self.started_ns = time.time_ns()

    # --- traces ------------------------------------------------------------------------------------------------------

    def begin(self, header: Callable[[bytes], bytes]) -> Trace:
        return begin(header, self.ways, self.ratio)

    def finished(self, call: Call) -> None:
        """The request is over: its spans, into the queue of those that are to be sent."""
        trace: Trace = call.trace
        if trace.sampled:
            for span in self._spans(call, trace):
                self.spans.on_end(span)

    def _spans(self, call: Call, trace: Trace) -> Iterator[ReadableSpan]:
        now, receipt = call.process.clock(), call.receipt
        name = f"{operation(receipt)} {text(receipt.alias)}".strip() if receipt is not None else "request"
        parent = self._context(trace, trace.parent, remote=True) if trace.parent else None
        yield self._span(trace, trace.span, name, parent, call, (call.started, now), request(call), SpanKind.SERVER)
        if receipt is None:
            return
        root = self._context(trace, trace.span)
        admitted = receipt.attempts[0].started if receipt.attempts else now
        refused = {} if receipt.admitted or call.error is None else {"error.type": class_of(call.error)}
        yield self._span(trace, new_span(), "admission", root, call, (call.started, admitted), refused)
        for number, attempt in enumerate(receipt.attempts):
            last = number == len(receipt.attempts) - 1
            ends = attempt.started + attempt.milliseconds / 1000
            if last and receipt.ask.stream and attempt.outcome == "ok":
                ends = now
            span = attempt.span or new_span()
            model = text(attempt.target.model)
            name, facts = f"{operation(receipt)} {model}".strip(), attempted(receipt, attempt, last=last)
            times = (attempt.started, max(ends, attempt.started))
            yield self._span(trace, span, name, root, call, times, facts, SpanKind.CLIENT)
            if last and receipt.ttft is not None and (came := call.started + receipt.ttft) >= attempt.started:
                inside = self._context(trace, span)
                yield self._span(trace, new_span(), "first byte", inside, call, (attempt.started, came), {})

    def _span(
        self,
        trace: Trace,
        span: str,
        name: str,
        parent: SpanContext | None,
        call: Call,
        times: tuple[float, float],
        facts: Mapping[str, Value],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> ReadableSpan:
        start, end = (int((call.at + moment - call.started) * 1e9) for moment in times)
        failed = "error.type" in facts
        return ReadableSpan(
            name,
            context=self._context(trace, span),
            parent=parent,
            resource=self.resource,
            attributes=facts,
            events=[Event("error", {"error.type": facts["error.type"]}, end)] if failed else [],
            kind=kind,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=start,
            end_time=end,
            instrumentation_scope=self.scope,
        )

    @staticmethod
    def _context(trace: Trace, span: str, *, remote: bool = False) -> SpanContext:
        return SpanContext(int(trace.id, 16), int(span, 16), remote, TraceFlags(TraceFlags.SAMPLED))

    # --- metrics -----------------------------------------------------------------------------------------------------

    def export(self, series: Series) -> None:
        """This process's numbers, cumulative; blocks for the network, so it is for a thread."""
        if not is_told("METRICS"):
            return
        now = time.time_ns()
        metrics = [metric for family in BY_NAME.values() for metric in self._metrics(family, series, now)]
        scope = ScopeMetrics(self.scope, metrics, "")
        self.metrics.export(MetricsData([ResourceMetrics(self.resource, [scope], "")]))

    def _metrics(self, family: Family, series: Series, now: int) -> Iterator[Metric]:
        found = [(dict(zip(family.labels, key[1:], strict=True)), key) for key in series if key[0] == family.name]
        if not found:
            return
        unit = {"Seconds": "s", "Bytes": "By"}.get(family.unit, "1")
        if family.kind == "histogram":
            points = [self._histogram(family, labels, series[key], now) for labels, key in found]
            yield Metric(family.name, family.help, unit, Histogram(points, AggregationTemporality.CUMULATIVE))
            if name := CONVENTIONAL.get(family.name):
                points = [self._histogram(family, conventional(labels), series[key], now) for labels, key in found]
                yield Metric(name, family.help, unit, Histogram(points, AggregationTemporality.CUMULATIVE))
            return
        numbers = [
            NumberDataPoint(labels, self.started_ns, now, scaled(family, series[key][0])) for labels, key in found
        ]
        data = Gauge(numbers) if family.kind == "gauge" else Sum(numbers, AggregationTemporality.CUMULATIVE, True)
        yield Metric(family.name, family.help, unit, data)

    def _histogram(self, family: Family, labels: dict[str, str], values: list[int], now: int) -> HistogramDataPoint:
        counts, total = values[:-1], scaled(family, values[-1])
        bounds = [scaled(family, bound) for bound in family.bounds]
        # The smallest and the largest are not kept: infinities say so without a claim.
        return HistogramDataPoint(
            labels, self.started_ns, now, sum(counts), total, counts, bounds, min=float("inf"), max=float("-inf")
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    def flush(self, series: Series) -> None:
        """All that waits, now; blocks."""
        self.spans.force_flush(5000)
        self.export(series)

    def close(self) -> None:
        """Blocks until what waits is sent, or for a while."""
        self.spans.shutdown()  # type: ignore[no-untyped-call]
        self.metrics.shutdown()


def is_told(signal: str) -> bool:
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    return any(os.environ.get(name) for name in names)


def text(value: str) -> str:
    """What a client has named, without what it should not have written there."""
    return scrub(value[:300].encode("utf-8", "replace")).decode()


def scaled(family: Family, value: int) -> float:
    return value / 10**family.scale if family.scale else value


def conventional(labels: Mapping[str, str]) -> dict[str, str]:
    named = {LABELS[name]: value for name, value in labels.items() if name in LABELS}
    named.setdefault("gen_ai.operation.name", "chat")
    named["gen_ai.operation.name"] = OPERATIONS.get(named["gen_ai.operation.name"], named["gen_ai.operation.name"])
    return named


def operation(receipt: Receipt) -> str:
    return OPERATIONS.get(receipt.ask.endpoint, receipt.ask.endpoint)


def request(call: Call) -> dict[str, Value]:
    """Of the whole request, as the client sees it."""
    facts: dict[str, Value] = {"gateway.request.id": call.id, "http.response.status_code": call.status}
    if call.key is not None:
        facts["gateway.key.id"] = call.key.id
    if call.error is not None:
        facts["error.type"] = class_of(call.error)
    receipt = call.receipt
    if receipt is not None:
        facts |= {"gen_ai.operation.name": operation(receipt), "gen_ai.request.model": text(receipt.ask.model)}
        facts |= {"gateway.alias": receipt.alias, "gateway.outcome": receipt.outcome}
        facts |= {"gateway.stream": receipt.ask.stream, "gateway.attempts": len(receipt.attempts)}
        if receipt.cache:
            facts["gateway.cache"] = receipt.cache
        if receipt.line is not None and receipt.line.cost is not None:
            facts["gateway.cost.dollars"] = float(receipt.line.cost)
    return facts


def attempted(receipt: Receipt, attempt: Attempt, *, last: bool) -> dict[str, Value]:
    """Of one call to a provider."""
    target = attempt.target
    place = urlsplit(target.provider.base_url)
    facts: dict[str, Value] = {
        "gen_ai.operation.name": operation(receipt),
        "gen_ai.provider.name": target.provider.name,
        "gen_ai.request.model": text(target.model),
    }
    if place.hostname:
        facts["server.address"] = place.hostname
        facts["server.port"] = place.port or (443 if place.scheme == "https" else 80)
    if attempt.status:
        facts["http.response.status_code"] = attempt.status
    if (end := end_of(attempt)) != "ok":
        facts["error.type"] = end
    if last and receipt.usage is not None:
        facts["gen_ai.usage.input_tokens"] = receipt.usage.tokens_in
        facts["gen_ai.usage.output_tokens"] = receipt.usage.tokens_out
    if last and receipt.ask.max_tokens is not None:
        facts["gen_ai.request.max_tokens"] = receipt.ask.max_tokens
    return facts
