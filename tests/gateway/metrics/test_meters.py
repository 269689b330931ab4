"""What a request adds to the numbers, seen through the front door."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from django.test import override_settings

from gateway.engine import engine as sites_engine
from gateway.metrics import exposition
from ledger.models import PriceRow
from proxysite.metricspage import MetricsPage
from tests.gateway import golden, house
from tests.gateway.house import Door
from tests.gateway.leaving import ASK, STREAM
from tests.gateway.metrics.scrape import Samples, names, parsed, value
from tests.proxysite.wire import serving
from tests.scripted import RESET, ScriptedUpstream, json_answer, sse

TOKEN = "metrics-token-of-the-tests"


@pytest.fixture
async def counted(transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream) -> AsyncIterator[Door]:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        house.alias("lab/*", (lab, ""))
        PriceRow.objects.create(provider="lab", model="gpt-4o", input="1", output="2")
        return house.client_key()[1]

    with override_settings(GATEWAY_METRICS_TOKEN=TOKEN):
        async with house.open_house(configure, tmp_path) as opened:
            yield opened


def numbers(door: Door) -> Samples:
    total = door.engine.observer.total()
    assert total is not None
    return parsed(exposition.text(total).decode())


async def test_a_request_is_counted_with_its_tokens_its_cost_and_its_times(
    counted: Door, scripted: ScriptedUpstream
) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with counted.http() as http:
        for _ in range(3):
            await http.post("/chat/completions", json=ASK)
    rows = await counted.rows(3)
    seen = numbers(counted)
    route = {"alias": "fast", "provider": "lab", "model": "gpt-4o"}
    assert value(seen, "gateway_requests_total", endpoint="chat.completions", outcome="ok", **route) == 3
    kinds = {kind: value(seen, "gateway_tokens_total", kind=kind, **route) for kind in ("input", "output", "cached")}
    assert kinds == {"input": 57, "output": 30, "cached": 12}
    assert value(seen, "gateway_cost_dollars_total", **route) == pytest.approx(
        float(sum(row.cost or 0 for row in rows))
    )
    assert value(seen, "gateway_request_duration_seconds_count", alias="fast", stream="false") == 3
    assert value(seen, "gateway_time_to_first_byte_seconds_count", alias="fast") == 3
    assert value(seen, "gateway_overhead_seconds_count", endpoint="chat.completions") == 3
    assert 0 < value(seen, "gateway_overhead_seconds_sum") < value(seen, "gateway_request_duration_seconds_sum")
    assert value(seen, "gateway_attempts_total", provider="lab", outcome="ok") == 3
    assert value(seen, "gateway_http_responses_total", code="200") == 3


async def test_a_streams_time_for_each_token_is_measured(counted: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("One", " two"), gap=0.02)
    async with counted.http() as http:
        await http.post("/chat/completions", json=STREAM)
    await counted.rows(1)
    seen = numbers(counted)
    assert value(seen, "gateway_time_per_output_token_seconds_count", alias="fast", provider="lab") == 1
    # Four gaps and more after the first byte, for two more tokens.
    assert value(seen, "gateway_time_per_output_token_seconds_sum") > 0.04
    assert value(seen, "gateway_request_duration_seconds_count", stream="true") == 1


async def test_errors_are_counted_by_class_and_refusals_by_what_refused(
    counted: Door, scripted: ScriptedUpstream
) -> None:
    scripted.enqueue([RESET], json_answer({"error": {"message": "no", "code": "client-chosen-code"}}, status=400))
    async with counted.http() as http:
        await http.post("/chat/completions", json=ASK)
        await http.post("/chat/completions", json=ASK)
        await http.post("/chat/completions", json={**ASK, "model": "unknown"})
        await http.post("/chat/completions", json=ASK, headers={"authorization": "Bearer wrong-key-of-a-stranger"})
    seen = numbers(counted)
    assert value(seen, "gateway_errors_total", error="UpstreamBroken", alias="fast", provider="lab") == 1
    assert value(seen, "gateway_errors_total", error="UpstreamRefused", alias="fast", provider="lab") == 1
    assert value(seen, "gateway_errors_total", error="UnknownModel", alias="", provider="") == 1
    assert value(seen, "gateway_errors_total", error="Unauthorized") == 1
    assert value(seen, "gateway_attempts_total", provider="lab", outcome="broken") == 1
    assert value(seen, "gateway_attempts_total", provider="lab", outcome="refused") == 1
    assert {code: value(seen, "gateway_http_responses_total", code=code) for code in (400, 401, 404, 502)} == {
        400: 1, 401: 1, 404: 1, 502: 1,
    }  # fmt: skip


async def test_a_limits_and_a_budgets_refusals_are_counted(
    transactional_db: None, tmp_path: Path, scripted: ScriptedUpstream
) -> None:
    def configure() -> str:
        lab = house.provider("lab", scripted.url + "/v1")
        house.alias("fast", (lab, "gpt-4o"))
        PriceRow.objects.create(provider="lab", model="gpt-4o", input="1000", output="2000")
        poor = house.client_key("poor", budget="0.001/total")[1]
        return f"{house.client_key('slow', rpm=1)[1]} {poor}"

    scripted.default = json_answer(golden.COMPLETION)
    with override_settings(GATEWAY_METRICS_TOKEN=TOKEN):
        async with house.open_house(configure, tmp_path) as door, httpx.AsyncClient(base_url=door.url) as http:
            slow, poor = door.key.split()
            for key in (slow, slow, poor):
                await http.post("/chat/completions", json=ASK, headers={"authorization": f"Bearer {key}"})
            seen = numbers(door)
    assert value(seen, "gateway_refusals_total", reason="requests") == 1
    assert value(seen, "gateway_refusals_total", reason="budget") == 1


async def test_ten_thousand_names_under_a_pattern_are_one_series(counted: Door, scripted: ScriptedUpstream) -> None:
    """Settled through the meters themselves: ten thousand calls would say no more."""
    scripted.default = json_answer(golden.COMPLETION)
    async with counted.http() as http:
        await http.post("/chat/completions", json={**ASK, "model": "lab/first"})
        assert (await http.post("/chat/completions", json={**ASK, "model": 'lab/"x\n'})).status_code == 200
    await counted.rows(2)
    before = numbers(counted)
    assert value(before, "gateway_requests_total", alias="lab/*", model="*") == 2
    meters = counted.engine.observer.meters
    assert meters is not None
    places = [meters._place(("chat.completions", "lab/*", "lab", f"client-{n}", False)).route for n in range(10_000)]
    assert len(set(places)) == 1
    assert len(meters._spots) <= 4096
    assert len(numbers(counted)) == len(before)


async def test_the_gauges_say_what_is_now(counted: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = sse(*golden.chunks("One", " two"), gap=0.3)
    async with counted.http() as http, http.stream("POST", "/chat/completions", json=STREAM) as answer:
        await anext(answer.aiter_bytes())
        counted.engine.observer.look()
        seen = numbers(counted)
        assert value(seen, "gateway_open_requests") == 1
        assert value(seen, "gateway_open_streams") == 1
        assert value(seen, "gateway_buffered_bytes") > 0
        assert value(seen, "gateway_processes") == 1
        assert value(seen, "gateway_catalog_age_seconds") < 30
    await counted.rows(1)
    counted.engine.observer.look()
    assert value(numbers(counted), "gateway_open_streams") == 0


async def test_a_provider_that_is_out_of_order_is_shown_until_it_is_in_order_again(
    counted: Door, scripted: ScriptedUpstream
) -> None:
    await scripted.stop()
    async with counted.http() as http:
        for _ in range(6):
            await http.post("/chat/completions", json=ASK)
    process = await counted.engine.running()
    counted.engine.observer.look()
    assert value(numbers(counted), "gateway_breakers_open", provider="lab") >= 1
    for watch in list(process.breakers.open.values()):
        process.breakers.answered(watch.target, 0.1)
    counted.engine.observer.look()
    assert value(numbers(counted), "gateway_breakers_open", provider="lab") == 0


async def test_nothing_is_counted_where_nobody_reads_it(door: Door, scripted: ScriptedUpstream) -> None:
    scripted.default = json_answer(golden.COMPLETION)
    async with door.http() as http:
        await http.post("/chat/completions", json=ASK)
    process = await door.engine.running()
    assert process.meters is None
    assert door.engine.observer.total() is None
    assert process.disk.directory is not None
    assert not list(process.disk.directory.rglob("*.metrics"))


async def test_a_request_goes_on_where_it_cannot_be_counted(
    counted: Door, scripted: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise OSError

    scripted.default = json_answer(golden.COMPLETION)
    monkeypatch.setattr(type(counted.engine.observer.meters), "settled", broken)
    async with counted.http() as http:
        assert (await http.post("/chat/completions", json=ASK)).status_code == 200
    [row] = await counted.rows(1)
    assert row.outcome == "ok"


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "networks", "headers", "status"),
    [
        (TOKEN, [], {}, 404),
        (TOKEN, [], {"authorization": f"Bearer {TOKEN}x"}, 404),
        (TOKEN, [], {"authorization": f"Basic {TOKEN}"}, 404),
        (TOKEN, [], {"authorization": f"Bearer {TOKEN}"}, 200),
        (TOKEN, ["127.0.0.0/8"], {}, 200),
        ("", ["10.0.0.0/8"], {}, 404),
        ("", ["10.0.0.0/8"], {"x-forwarded-for": "10.0.0.1"}, 404),
        ("", ["10.0.0.0/8"], {"authorization": "Bearer x"}, 404),
    ],
)
async def test_the_page_opens_to_its_token_or_its_networks_only(
    token: str, networks: list[str], headers: dict[str, str], status: int
) -> None:
    page = MetricsPage(lambda: {("gateway_processes",): [1]}, token, networks)
    async with serving(page) as (port, _), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.get("/metrics", headers=headers)
        assert answer.status_code == status
        if status == 200:
            assert answer.headers["content-type"] == exposition.CONTENT_TYPE
            assert value(parsed(answer.text), "gateway_processes") == 1
            assert (await http.head("/metrics", headers=headers)).content == b""
            assert (await http.post("/metrics", headers=headers)).status_code == 405
        else:
            assert answer.json()["error"]["code"] == "unknown_url"


def test_the_site_has_no_page_by_default() -> None:
    from proxysite.asgi import application

    assert application.metrics is None
    assert sites_engine.observer.total() is None


async def test_no_label_comes_from_a_client(counted: Door, scripted: ScriptedUpstream) -> None:
    canary = "client-text-5d1"
    scripted.default = json_answer({"error": {"message": canary, "code": canary, "type": canary}}, status=400)
    async with counted.http() as http:
        for model in (f"lab/{canary}", canary, "fast"):
            await http.post(
                "/chat/completions",
                json={**ASK, "model": model, "user": canary},
                headers={"x-request-id": canary, "user-agent": canary},
            )
        await http.post(f"/{canary}", json={})
        await http.request(canary.upper(), "/chat/completions")
        await http.post("/chat/completions", json=ASK, headers={"x-gateway-provider": canary})
    total = counted.engine.observer.total()
    assert total is not None
    assert canary not in exposition.text(total).decode().lower()
    assert "gateway_errors_total" in names(numbers(counted))
