"""What an OTLP endpoint is sent: spans and metrics, by the conventions for generative AI, and no word of a prompt."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from ledger.models import PriceRow
from proxysite.env import BASE_DIR
from tests.canaries import ANSWER, PROMPT, PROVIDER_TOKEN
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM
from tests.gateway.tracing.collector import Collector, attributes
from tests.scripted import RESET, ScriptedUpstream, json_answer, sse

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


@pytest.fixture
def traced(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream, collector: Collector
) -> Callable[[], AbstractAsyncContextManager[Door]]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        other = house.provider("other", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"), (other, "gpt-4o-mini"))
        PriceRow.objects.create(provider="lab", model="gpt-4o", input="1", output="2")
        return house.client_key()[1]

    return lambda: house.open_house(configure, tmp_path)


def named(spans: list[Any]) -> dict[str, Any]:
    return {span.name: span for span in spans}


async def test_a_request_is_a_span_with_admission_each_attempt_and_the_first_byte_in_it(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with traced() as door:
        async with door.http() as http:
            answer = await http.post("/chat/completions", json={**ASK, "max_tokens": 50})
        [row] = await door.rows(1)
    spans = named(collector.wait(4))
    assert set(spans) == {"chat fast", "admission", "chat gpt-4o", "first byte"}
    root, admission, attempt, byte = (spans[name] for name in ("chat fast", "admission", "chat gpt-4o", "first byte"))
    assert len({span.trace_id for span in spans.values()}) == 1
    assert root.parent_span_id == b""
    assert admission.parent_span_id == attempt.parent_span_id == root.span_id
    assert byte.parent_span_id == attempt.span_id
    assert (root.kind, admission.kind, attempt.kind) == (2, 1, 3)  # server, internal, client
    assert attributes(root) == {
        "gateway.request.id": answer.headers["x-request-id"], "gateway.key.id": row.key_id, "gateway.alias": "fast",
        "gateway.outcome": "ok", "gateway.stream": False, "gateway.attempts": 1, "http.response.status_code": 200,
        "gateway.cost.dollars": float(row.cost), "gen_ai.operation.name": "chat", "gen_ai.request.model": "fast",
    }  # fmt: skip
    assert attributes(attempt) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "lab", "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.max_tokens": 50, "gen_ai.usage.input_tokens": 19, "gen_ai.usage.output_tokens": 10,
        "http.response.status_code": 200, "server.address": "127.0.0.1", "server.port": scripted.port,
    }  # fmt: skip
    assert root.start_time_unix_nano == admission.start_time_unix_nano <= admission.end_time_unix_nano
    assert admission.end_time_unix_nano == attempt.start_time_unix_nano == byte.start_time_unix_nano
    assert byte.end_time_unix_nano <= attempt.end_time_unix_nano + 1_000_000 <= root.end_time_unix_nano + 2_000_000
    assert attributes(collector.resources[0])["service.name"] == "llm-gateway"


async def test_every_attempt_is_a_span_and_a_failed_one_says_why(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    refused = json_answer({"error": {"message": "busy", "code": "their-own-code"}}, status=503)
    scripted.enqueue(refused, json_answer(golden.COMPLETION))
    async with traced() as door, door.http() as http:
        assert (await http.post("/chat/completions", json=ASK)).status_code == 200
    spans = named(collector.wait(5))
    first, second = attributes(spans["chat gpt-4o"]), attributes(spans["chat gpt-4o-mini"])
    assert (first["error.type"], first["http.response.status_code"]) == ("refused", 503)
    assert spans["chat gpt-4o"].status.code == 2
    assert "error.type" not in second
    assert spans["chat gpt-4o-mini"].status.code == 0
    assert "gen_ai.usage.input_tokens" not in first


async def test_what_never_reached_a_provider_is_a_trace_too(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    async with traced() as door, door.http() as http:
        await http.post("/chat/completions", json=ASK, headers={"authorization": "Bearer nobody-has-this-key"})
        await http.post("/chat/completions", json={**ASK, "model": "unknown"})
    spans = collector.wait(3)
    assert [(span.name, attributes(span).get("error.type")) for span in spans] == [
        ("request", "Unauthorized"),
        ("chat", "UnknownModel"),
        ("admission", "UnknownModel"),
    ]


async def test_a_stream_lasts_until_its_end(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    scripted.default = sse(*golden.chunks("One", " two"), gap=0.05)
    async with traced() as door, door.http() as http:
        await http.post("/chat/completions", json=STREAM)
    spans = named(collector.wait(4))
    attempt, byte = spans["chat gpt-4o"], spans["first byte"]
    assert attempt.end_time_unix_nano - attempt.start_time_unix_nano >= 250_000_000
    assert byte.end_time_unix_nano < attempt.end_time_unix_nano - 150_000_000
    assert attributes(attempt)["gen_ai.usage.output_tokens"] == 3


@pytest.mark.parametrize(
    ("ways", "taken", "sent"),
    [([], False, False), (["take"], True, False), (["take", "send"], True, True), (["send"], False, True)],
)
async def test_a_traceparent_is_taken_and_sent_on_by_setting(
    traced: Callable[[], Any],
    scripted: ScriptedUpstream,
    collector: Collector,
    ways: list[str],
    taken: bool,
    sent: bool,
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    with override_settings(GATEWAY_TRACEPARENT=ways):
        async with traced() as door, door.http() as http:
            await http.post("/chat/completions", json=ASK, headers={"traceparent": PARENT})
    spans = named(collector.wait(4))
    root, attempt = spans["chat fast"], spans["chat gpt-4o"]
    assert (root.trace_id.hex() == PARENT[3:35]) == taken
    assert root.parent_span_id.hex() == (PARENT[36:52] if taken else "")
    told = scripted.requests[0].header("traceparent")
    assert told == (f"00-{root.trace_id.hex()}-{attempt.span_id.hex()}-01" if sent else None)


async def test_a_caller_who_does_not_sample_is_not_sampled(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    with override_settings(GATEWAY_TRACEPARENT=["take", "send"]):
        async with traced() as door, door.http() as http:
            await http.post("/chat/completions", json=ASK, headers={"traceparent": PARENT[:-1] + "0"})
    assert collector.spans == []
    assert (scripted.requests[0].header("traceparent") or "").endswith("-00")


async def test_the_metrics_come_by_our_names_and_by_the_conventions(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with traced() as door, door.http() as http:
        for _ in range(3):
            await http.post("/chat/completions", json=ASK)
    metrics = {metric.name: metric for metric in collector.metrics}
    [point] = metrics["gateway_requests_total"].sum.data_points
    assert (point.as_double or point.as_int) == 3
    assert attributes(point) == {
        "endpoint": "chat.completions", "alias": "fast", "provider": "lab", "model": "gpt-4o", "outcome": "ok",
    }  # fmt: skip
    assert metrics["gateway_requests_total"].sum.is_monotonic
    [duration] = metrics["gen_ai.client.operation.duration"].histogram.data_points
    assert metrics["gen_ai.client.operation.duration"].unit == "s"
    assert (duration.count, sum(duration.bucket_counts)) == (3, 3)
    assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
    assert attributes(duration) == {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "fast", "gen_ai.provider.name": "lab",
    }  # fmt: skip
    assert metrics["gateway_open_requests"].gauge.data_points[0].as_int == 0


async def test_no_prompt_no_answer_and_no_key_is_in_anything_that_is_sent(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector
) -> None:
    refused = json_answer({"error": {"message": f"bad key {PROVIDER_TOKEN}: {PROMPT}"}}, status=401)
    scripted.enqueue(json_answer(golden.COMPLETION), sse(*golden.chunks(ANSWER)), [RESET], refused, refused)
    async with traced() as door, door.http() as http:
        for body in (ASK, STREAM, ASK, ASK, {**ASK, "model": door.key}, {**ASK, "user": PROMPT}):
            await http.post("/chat/completions", json=body)
        key = door.key
    collector.wait(15)
    assert collector.raw
    for canary in (PROMPT, ANSWER, PROVIDER_TOKEN, key, key[17:]):
        assert canary.encode() not in collector.raw


def test_nothing_of_it_is_imported_without_an_endpoint() -> None:
    code = (
        "import sys, django; django.setup(); import proxysite.asgi; from gateway import observing\n"
        "assert observing.telemetry() is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry') or name == 'gateway.tracing.export'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


async def test_a_collector_that_is_away_costs_no_request(
    traced: Callable[[], Any], scripted: ScriptedUpstream, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    scripted.default = json_answer(golden.COMPLETION)
    async with traced() as door, door.http() as http:
        assert (await http.post("/chat/completions", json=ASK)).status_code == 200
        [row] = await door.rows(1)
    assert row.outcome == "ok"
